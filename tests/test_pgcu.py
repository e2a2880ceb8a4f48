"PGCU: golden counts, the upsampler against the authors' loop over bands, and its cells."
import pytest, torch, torch.nn.functional as F
from conftest import net, pair
from pansharp_nb.data.scenes import to_tensors
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.models.baselines.pgcu import PGCU, PanNetPGCU
from pansharp_nb.models.counting import macs, macs_thop, memory, outline, parameters

pytestmark = pytest.mark.usefixtures('one_thread')

@pytest.mark.parametrize('make,want,giga', [(PanNetPGCU, 149224, 7.9), (PGCU, 54116, 1.7)])
def test_count(make, want, giga):
    n,x = outline(make)
    assert parameters(n)==want and round(macs_thop(n, x)/1e9, 1)==giga
    assert macs(n, x)-macs_thop(n, x)==256**2*16*(128+4)

def test_count_8_bands():
    "By hand: branches, joins, projections with their norms, and the body of PanNet."
    c,V = 8,128
    conv = 9*c*c+c
    one = 9*c+c
    pgcu = conv+one + 2*c*9*V+V + 2*(one+2*conv+2*conv) + 2*c*9*V+V + 2*c*9*c+c + 2*(V*V+V+2*V) + conv
    body = 9*(c+1)*32+32 + 5*2*(9*32*32+32) + 9*32*c+c
    assert parameters(outline(lambda: PanNetPGCU(8), 8)[0])==pgcu+body

def by_hand(s, ms, pan, c, L):
    "One band at a time, with a linear layer and a layer norm of its own, from a state dict; 2 blocks, ratio 4."
    def conv(v, k, **kw): return F.conv2d(v, s[k+'.weight'], s[k+'.bias'], padding=1, **kw)
    def shrink(v, k, n):
        for i in range(n): v = F.max_pool2d(conv(v, f'{k}.{2*i}', stride=2), 2)
        return v
    def table(k): return conv(torch.cat([shrink(ms, k+'.ms', 1), shrink(pan, k+'.pan', 2)], 1), k+'.join')
    def project(v, k, i):
        at = slice(i*L, (i+1)*L)
        v = v.flatten(2).transpose(1, 2) @ s[k+'.0.weight'][at].T + s[k+'.0.bias'][at]
        return F.layer_norm(v, (L,), s[k+'.1.weight'][at], s[k+'.1.bias'][at])
    near = F.interpolate(ms, scale_factor=4, mode='nearest')
    f = conv(torch.cat([conv(near, 'f.ms.1'), conv(pan, 'f.pan')], 1), 'f.join')
    g,v = table('g'),table('v')
    bands = []
    for i in range(c):
        e = (project(f, 'query', i) @ project(g, 'key', i).transpose(1, 2)/L**.5).exp()
        bands.append((e/e.sum(2, keepdim=True) @ v[:, i].flatten(1)[..., None]).view(len(ms), 1, *pan.shape[2:]))
    return conv(torch.cat(bands, 1), 'adjust')

@pytest.mark.parametrize('c,dim', [(4, 32), (3, 32), (1, 8)])
def test_equations(c, dim):
    n,(ms,pan) = net(PGCU, c, dim=dim).double(),pair(c, 12, 8, dtype=torch.float64)
    with torch.no_grad(): torch.testing.assert_close(n(ms, pan), by_hand(n.state_dict(), ms, pan, c, dim//c), rtol=1e-9, atol=1e-10)

def test_pannet():
    "High-pass PAN beside the whole upsampled MS, which is added at the end."
    n,(ms,pan) = net(PanNetPGCU),pair(h=12, w=8)
    x,aux = n(ms, pan, aux=True)
    box = F.conv2d(F.pad(pan, (2,)*4, 'reflect'), torch.full((1, 1, 5, 5), .04))
    torch.testing.assert_close(x, aux['up']+n.body(torch.cat([pan-box, aux['up']], 1)))
    torch.testing.assert_close(aux['up'], n.up(ms, pan))
    assert torch.equal(n(ms, pan), x)

def test_chunks():
    "Many chunks of pixels, with a large batch, give what each image alone gives."
    n,(ms,pan) = net(PGCU, blocks=1),pair(h=24, w=24, B=6)
    with torch.no_grad(): torch.testing.assert_close(n(ms, pan), torch.cat([n(*p) for p in zip(ms.split(1), pan.split(1))]), rtol=1e-4, atol=1e-5)
    assert memory(*outline(PGCU, size=1024))<4*1024**2*256*4

@pytest.mark.parametrize('make', [PGCU, PanNetPGCU])
def test_wrong_knobs(make):
    with pytest.raises(ValueError, match='power of two'): make(ratio=3)
    with pytest.raises(ValueError, match='up to 4, got 16'): make(ratio=16, blocks=1)
    with pytest.raises(ValueError, match='too few'): make(bands=5, dim=4)

def test_one_cell():
    "A patch of one cell leaves no choice: what makes the probabilities learns nothing."
    n = net(PGCU)
    n(*pair(h=4, w=4)).square().mean().backward()
    assert {k.split('.')[0] for k,p in n.named_parameters() if p.grad is None or not p.grad.any()}=={'f', 'g', 'query', 'key'}

def test_learns_both_outputs():
    ms,pan,gt = (z/2047 for z in to_tensors(made_up('QB', size=64)))
    n,ls = net(PanNetPGCU, nf=12).train(),[]
    opt = torch.optim.Adam(n.parameters(), lr=1e-2)
    for _ in range(30):
        x,aux = n(ms, pan, aux=True)
        l = (x-gt).square().mean()+(aux['up']-gt).square().mean()
        opt.zero_grad()
        l.backward()
        opt.step()
        ls.append(l.item())
    assert ls[-1]<ls[0]/5
