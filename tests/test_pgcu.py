"PGCU: golden counts, the upsampler against the authors' loop over bands, and the ways a user may call it."
import pytest, torch, torch.nn.functional as F
from pansharp_nb.data.scenes import to_tensors
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.models.baselines.pgcu import PGCU, PanNetPGCU
from pansharp_nb.models.counting import macs, macs_thop, memory, outline, parameters

small = {PGCU: dict(dim=32, blocks=2), PanNetPGCU: dict(dim=32, blocks=2, nf=8, depth=1)}
both = pytest.mark.parametrize('make', small)

def pair(bands=4, h=12, w=8, r=4, B=2, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    return torch.rand(B, bands, h, w, generator=g, dtype=dtype), torch.rand(B, 1, r*h, r*w, generator=g, dtype=dtype)

def net(make, seed=0, **kw):
    torch.manual_seed(seed)
    return make(**(small[make] | kw)).eval()

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
    n,(ms,pan) = net(PGCU, bands=c, dim=dim).double(),pair(c, dtype=torch.float64)
    with torch.no_grad(): torch.testing.assert_close(n(ms, pan), by_hand(n.state_dict(), ms, pan, c, dim//c), rtol=1e-9, atol=1e-10)

def test_pannet():
    "High-pass PAN beside the whole upsampled MS, which is added at the end."
    n,(ms,pan) = net(PanNetPGCU),pair()
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

@both
@pytest.mark.parametrize('bands,r,h,w', [(1, 4, 5, 7), (3, 2, 9, 6), (8, 8, 3, 2), (4, 4, 1, 1), (4, 1, 17, 16), (2, 16, 2, 1)])
def test_shapes(make, bands, r, h, w):
    n,(ms,pan) = net(make, bands=bands, ratio=r),pair(bands, h, w, r)
    before = ms.clone(),pan.clone()
    with torch.no_grad(): x = n(ms, pan)
    assert x.shape==(2, bands, *pan.shape[2:]) and torch.equal(before[0], ms) and torch.equal(before[1], pan)

@both
def test_wrong_shapes(make):
    n,(ms,pan) = net(make),pair()
    with pytest.raises(ValueError, match='built for 4 bands'): n(ms[:, :3], pan)
    with pytest.raises(ValueError, match='wants a PAN of'): n(ms, pan[..., 1:])
    with pytest.raises(ValueError, match='power of two'): make(ratio=3)
    with pytest.raises(ValueError, match='up to 4, got 16'): make(ratio=16, blocks=1)
    with pytest.raises(ValueError, match='too few'): make(bands=5, dim=4)

@both
def test_ways_to_call(make):
    n,(ms,pan) = net(make),pair()
    with torch.no_grad():
        x = n(ms, pan)
        last = dict(memory_format=torch.channels_last)
        torch.testing.assert_close(n.to(**last)(ms.to(**last), pan.to(**last)), x, rtol=1e-4, atol=1e-5)
        assert n.double()(ms.double(), pan.double()).dtype==torch.float64
    n = n.float().train()
    with torch.autocast('cpu', torch.bfloat16): z = n(ms, pan)
    z.float().square().mean().backward()
    assert (z.float()-x).abs().max()<.05*x.abs().max() and all(p.grad.isfinite().all() for p in n.parameters())

@both
def test_state_dict(make):
    a,b,(ms,pan) = net(make, 0),net(make, 1),pair()
    with torch.no_grad():
        assert not torch.equal(a(ms, pan), b(ms, pan))
        b.load_state_dict(a.state_dict())
        assert torch.equal(a(ms, pan), b(ms, pan))

def idle(n, *x):
    n(*x).square().mean().backward()
    return {k for k,p in n.named_parameters() if p.grad is None or not p.grad.any()}

@both
def test_gradients(make): assert not idle(net(make), *pair(h=16, w=16))

def test_one_cell():
    "A patch of one cell leaves no choice: what makes the probabilities learns nothing."
    assert {k.split('.')[0] for k in idle(net(PGCU), *pair(h=4, w=4))}=={'f', 'g', 'query', 'key'}

def test_overfits():
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
