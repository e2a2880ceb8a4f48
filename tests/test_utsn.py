"UTSN: golden counts, the equations written out again, and both stages."
import pytest, torch, torch.nn.functional as F
from conftest import net, pair
from pansharp_nb.data.scenes import to_tensors
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.losses import l2
from pansharp_nb.models.baselines.utsn import SAN, SEN, UTSN
from pansharp_nb.models.counting import macs, macs_thop, outline, parameters

pytestmark = pytest.mark.usefixtures('one_thread')

def test_count():
    "PreMix's Table 3: 27.79 G, both stages together; the public code is for four bands."
    n,x = outline(UTSN)
    assert (parameters(n.sen), parameters(n.san), parameters(n))==(422148, 3412, 422148+3412)
    assert round(macs(n, x)/1e9, 2)==round(macs_thop(n, x)/1e9, 2)==27.79
    assert round(macs(n.sen, x)/1e9, 2)==27.64

def test_count_of_any_bands():
    "Four more bands: the first and last layers of both stages."
    first,last = 4*9*32, 4*(9*32+1)
    assert parameters(outline(lambda: UTSN(8), 8)[0])-parameters(outline(UTSN)[0])==2*(first+last)

def by_hand(s, ms, pan, K):
    "From a state dict; details as their list of differences."
    def conv(x, k):
        w = s[k+'.weight']
        return F.conv2d(x, w, s[k+'.bias'], padding=w.shape[-1]//2)
    up = F.interpolate(ms, scale_factor=4, mode='bilinear', align_corners=False)
    zs = [conv(pan, 'sen.look.0.0').relu()]
    for k in range(1, K): zs.append(conv(zs[-1], f'sen.look.{k}.0').relu())
    fs = [conv(torch.cat([pan, up], 1), 'sen.stem.0').relu()]
    for k in range(K): fs.append(conv(torch.cat(fs, 1), f'sen.grow.{k}.0').relu() + zs[k] - sum(zs[:k]))
    first = conv(conv(torch.cat(fs, 1), 'sen.paint.0.0').relu(), 'sen.paint.1') + pan.repeat(1, ms.shape[1], 1, 1)
    f = conv(first, 'san.head.0').relu()
    v = conv(conv(f.mean((2, 3), keepdim=True), 'san.se.1.0').relu(), 'san.se.2').sigmoid()
    return first*conv(f*v, 'san.tail.0').relu(), first

def test_equations():
    n,(ms,pan) = net(UTSN, 5).double(),pair(5, dtype=torch.float64)
    for p in n.parameters(): p.data.mul_(3) # away from the tame start
    with torch.no_grad():
        x,aux = n(ms, pan, aux=True)
        want,first = by_hand(n.state_dict(), ms, pan, 3)
    torch.testing.assert_close(x, want, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(aux['first'], first, rtol=1e-11, atol=1e-11)

def test_stages():
    "The first stage is a network of its own; the factor of the second is never negative."
    n,(ms,pan) = net(UTSN),pair()
    with torch.no_grad():
        x,aux = n(ms, pan, aux=True)
        assert torch.equal(n.sen(ms, pan), aux['first']) and torch.equal(n.san(aux['first']), x) and torch.equal(n(ms, pan), x)
        assert (x*aux['first']>=0).all()
    with pytest.raises(ValueError, match='built for 4 bands'): n.sen(ms[:, :3], pan)

def test_start():
    "Weights N(0, 0.02); the second stage starts near the identity, so no band starts black."
    n = net(UTSN, n=32)
    assert all(abs(m.weight.std()/.02-1)<.3 for m in n.modules() if isinstance(m, torch.nn.Conv2d) and m.weight.numel()>200)
    x = torch.rand(1, 4, 8, 8)
    for seed in range(20):
        torch.manual_seed(seed)
        with torch.no_grad(): assert (SAN()(x)-x).abs().max()<.3

def train(n, ms, pan, gt, steps):
    opt,ls = torch.optim.Adam([p for p in n.parameters() if p.requires_grad], lr=2e-3),[]
    for _ in range(steps):
        l = l2(n(ms, pan), gt)
        opt.zero_grad()
        l.backward()
        ls.append(l.item())
        opt.step()
    return ls

def test_gradients():
    "With the first stage frozen only the parameters of the second get one."
    n,(ms,pan) = net(UTSN),pair()
    n.sen.requires_grad_(False)
    n(ms, pan).square().mean().backward()
    assert all(p.grad is None for p in n.sen.parameters()) and all(p.grad is not None for p in n.san.parameters())

def test_learns():
    "One made-up patch is fitted, in two stages."
    n = net(UTSN, n=16, K=2).train()
    ms,pan,gt = (z/2047 for z in to_tensors(made_up('QB', size=32)))
    one = train(n.sen, ms, pan, gt, 80)
    n.sen.requires_grad_(False)
    two = train(n, ms, pan, gt, 20)
    assert one[-1]<one[0]/5 and two[0]<one[0]/5 and two[-1]<two[0]

def test_sen_alone():
    assert SEN(8, 2, n=4, K=1)(*pair(8, 3, 5, 2)).shape==(2, 8, 6, 10)
