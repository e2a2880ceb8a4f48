"LDPNet: golden counts, an independent forward pass and loss, and what its own loss teaches."
import pytest, torch, torch.nn.functional as F
from conftest import net, pair
from pansharp_nb.data.scenes import to_tensors
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.layers.sizes import upsample
from pansharp_nb.models.baselines.ldpnet import LDPNet, ldp_loss, _shrink
from pansharp_nb.models.counting import macs, outline, parameters

pytestmark = pytest.mark.usefixtures('one_thread')

def test_count():
    "SIDP's Table IV: 1585 K. The width of the authors' last version is 16."
    for n,p,g in ((64, 1585005, 29.4), (16, 107445, 2.8)):
        f,x = outline(lambda: LDPNet(n=n))
        assert parameters(f)==p and round(macs(f, (*x, True))/1e9, 1)==g

def test_count_of_eight_bands():
    "Bands touch the first two layers of both extractors, the last layer, the gray network and the blur."
    def degradations(c): return (9*c*c+c) + (c*c+c) + 8*c*c + 21**2*c*c+c
    def extra(c): return 2*9*c*(16+32) + c*(9*96+1)
    assert parameters(outline(lambda: LDPNet(8), 8)[0])-1585005==degradations(8)-degradations(4)+extra(8)-extra(4)

def oracle(f, ms, pan):
    "The forward pass written once more, from the state alone."
    d = f.state_dict()
    def act(x, k): return F.prelu(x, d[k])
    def _conv(x, k, **kw): return F.conv2d(x, d[k+'.weight'], d[k+'.bias'], **kw)
    def layer(xs, k): return act(_conv(torch.cat(xs, 1), k+'.0', padding=1), k+'.1.weight')
    def extract(x, k):
        a = layer([x], k+'.a')
        b = layer([a, x], k+'.b')
        c = layer([b, a], k+'.c')
        return act(_conv(torch.cat([c, b], 1), k+'.down.0', stride=2), k+'.down.1.weight'), c
    (m2,m),(p2,p) = extract(upsample(ms, 4), 'ms'),extract(torch.cat([pan]*4, 1), 'pan')
    xs = [torch.cat([m2, p2], 1)]
    for i in range(4): xs.append(layer(xs, f'decode.layers.{i}'))
    y = act(F.conv_transpose2d(xs[-1], d['decode.up.0.weight'], d['decode.up.0.bias'], stride=2), 'decode.up.1.weight')
    return _conv(_conv(torch.cat([y, m, p], 1), 'paint.0'), 'paint.1', padding=1).relu()

def test_forward():
    f,(ms,pan) = net(LDPNet).double(),pair(dtype=torch.float64)
    with torch.no_grad():
        x,aux = f(ms, pan, aux=True)
        torch.testing.assert_close(x, oracle(f, ms, pan))
    torch.testing.assert_close(aux['blur'], F.conv2d(x, f.blur.weight, f.blur.bias, padding=2))
    assert {v.shape for v in aux.values()}=={x.shape} and torch.equal(f(ms, pan), x)

def test_loss():
    "Against the sum of its parts, with PyTorch's own divergence."
    f,(ms,pan) = net(LDPNet),pair()
    x,a = f(ms, pan, aux=True)
    P,mse = torch.cat([pan]*4, 1),F.mse_loss
    kl = torch.nn.KLDivLoss(reduction='sum')((a['up']-f.gray(a['up'])).softmax(-1).log(), (x-P).softmax(-1))
    small = F.interpolate(F.conv2d(x, torch.ones(4, 1, 3, 3)/9, padding=1, groups=4), (9, 6), mode='bilinear', align_corners=True)
    want = 20*mse(f.gray(x), P)+mse(f.blur(P), f.gray(a['up'])) + 5*(20*mse(small, ms)+mse(f.blur(x), a['up'])) + .1*kl
    torch.testing.assert_close(ldp_loss(x, ms, pan, a), want)
    for i in range(5): # each weight is that of one part
        w = [0]*5
        w[i] = 2
        torch.testing.assert_close(ldp_loss(x, ms, pan, a, w), 2*ldp_loss(x, ms, pan, a, [v/2 for v in w]))

def test_shrink_mended():
    "Neither darkens a flat image nor moves a slope."
    torch.testing.assert_close(_shrink(torch.ones(1, 2, 16, 12), (4, 3), False), torch.ones(1, 2, 4, 3))
    slope = torch.arange(32.).expand(1, 1, 32, 32)
    torch.testing.assert_close(_shrink(slope, (8, 8), False)[..., 1:-1], slope.view(1, 1, 32, 8, 4).mean(-1)[:, :, :8, 1:-1])

@pytest.mark.parametrize('bands,r,h,w', [(1, 4, 5, 7), (3, 2, 9, 5), (8, 4, 2, 3), (4, 3, 5, 3), (4, 1, 7, 5), (16, 4, 1, 1)])
def test_degraded_images_of_any_size(bands, r, h, w):
    f,(ms,pan) = net(LDPNet, bands, ratio=r),pair(bands, h, w, r)
    was = ms.clone(),pan.clone()
    with torch.no_grad(): x,aux = f(ms, pan, aux=True)
    assert {v.shape for v in aux.values()}=={x.shape} and ldp_loss(x, ms, pan, aux).isfinite()
    assert torch.equal(ms, was[0]) and torch.equal(pan, was[1])

def test_gradients():
    "Its own loss teaches every parameter, the degradations too."
    f,(ms,pan) = net(LDPNet),pair()
    x,aux = f(ms, pan, aux=True)
    ldp_loss(x, ms, pan, aux).backward()
    assert [n for n,p in f.named_parameters() if p.grad is None or not p.grad.abs().sum()]==[]

def test_overfits():
    "Its own loss, which never sees the truth, falls fivefold."
    ms,pan,_ = (z/2047 for z in to_tensors(made_up('QB', size=32)))
    f,ls = net(LDPNet).train(),[]
    opt = torch.optim.Adam(f.parameters(), lr=5e-3)
    for _ in range(60):
        x,aux = f(ms, pan, aux=True)
        ls.append(ldp_loss(x, ms, pan, aux))
        opt.zero_grad()
        ls[-1].backward()
        opt.step()
    assert ls[-1]<ls[0]/5
