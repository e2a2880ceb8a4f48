"MDCUN: golden counts, an independent forward pass, and its steps."
import pytest, torch, torch.nn.functional as F
from conftest import net, pair
from pansharp_nb.models.baselines.mdcun import MDCUN, highs
from pansharp_nb.models.counting import macs, macs_thop, outline, parameters

pytestmark = pytest.mark.usefixtures('one_thread')

@pytest.mark.parametrize('T,p,g', [(1, 70483, 30.5), (4, 98347, 123.9)])
def test_count(T, p, g):
    "True work: what the counter sees, and the attention, two products of 4 by 225 a pixel."
    n,x = outline(lambda: MDCUN(T=T))
    assert parameters(n)==p and round((macs(n, x)+T*2*225*4*256**2)/1e9, 1)==g

def test_thop():
    "PreMix's 117.844 G: residual blocks four times, softmax, repeated pixels."
    n,x = outline(lambda: MDCUN(T=1))
    blocks = macs_thop(n.denoise.body[1:], (torch.empty(8, 32, 256, 256, device='meta'),))
    assert round((macs_thop(n, x)+3*blocks+256**2*(3*225-1)+256**2*64)/1e9, 3)==117.844

def test_count_of_bands():
    "Bands touch the mixers, down, up, and, squared, the non-local means."
    def by(c, T): return sum(9*i*c*64+64+9*64*c+c for i in range(1, T+1)) + 2*(9*c*64+64+9*64*c+c+9*c*c+c) + 4*c*c
    for T,p in ((1, 70483), (4, 98347)):
        assert parameters(outline(lambda: MDCUN(8, T=T), 8)[0])-p==by(8, T)-by(4, T)

def nonlocal_(x, f):
    "Offset by offset."
    def one(l): return torch.einsum('oi,bihw->bohw', l.weight[:, :, 0, 0], x)
    n,(H,W) = f.window//2,x.shape[2:]
    q,k,v = one(f.ask),*(F.pad(one(l), (n, n, n, n)) for l in (f.key, f.value))
    at = [(..., slice(i, i+H), slice(j, j+W)) for i in range(2*n+1) for j in range(2*n+1)]
    a = torch.stack([(q*k[i]).sum(1) for i in at]).softmax(0)
    y = sum(w[:, None]*v[i] for w,i in zip(a, at))
    return x + torch.einsum('oi,bihw->bohw', f.out.weight[:, :, 0, 0], y)

def denoise(u, pan, high, f):
    "Band by band."
    def one(z):
        z = f.body[0](z)
        for r in f.body[1:]:
            c1,act,c2,_ = r.body
            z = z + act(c2(act(c1(z))))
        return f.mask(torch.stack([z.max(1)[0], z.mean(1)], 1)).sigmoid()
    return u + torch.cat([high + one(torch.cat([u[:, i:i+1], pan], 1))*high for i in range(u.shape[1])], 1)

def oracle(f, ms, pan):
    high = f.high(highs(pan))
    x = F.interpolate(ms, scale_factor=4, mode='bilinear')
    us,vs = [],[]
    def dn(x): return f.down[4](f.down[3](F.max_pool2d(f.down[0](x).relu(), 4)))
    def up(x): return f.up[4](f.up[3](F.interpolate(f.up[0](x).relu(), scale_factor=4)))
    for i,c in enumerate(f.mix):
        mu,eta,gamma,delta = f.steps[i]
        u = denoise(c[1](c[0](torch.cat(us+[x], 1))), pan, high, f.denoise)
        nl = nonlocal_(x, f.alike)
        v = denoise(c[1](c[0](torch.cat(vs+[nl], 1))), pan, high, f.denoise)
        us,vs = us+[u],vs+[v]
        x = x - delta*(up(dn(x)-ms + mu*(dn(nl)-ms)) + eta*(x-u) + gamma*(nl-v))
    return x

def test_forward():
    f,x = net(MDCUN, T=3).double(),pair(h=6, w=4, dtype=torch.float64)
    with torch.no_grad(): torch.testing.assert_close(f(*x), oracle(f, *x))

def test_start():
    "Steps of one half, one tenth for the whole; slopes of one half."
    f = MDCUN()
    torch.testing.assert_close(f.steps.detach(), torch.tensor([.5, .5, .5, .1]).expand(4, 4))
    assert {p.item() for n,p in f.named_parameters() if p.shape==(1,) and 'denoise' in n}=={.5}

def test_stands_still():
    "With steps of zero the result is the bilinear start."
    f,(ms,pan) = net(MDCUN),pair()
    f.steps.data.zero_()
    torch.testing.assert_close(f(ms, pan), F.interpolate(ms, scale_factor=4, mode='bilinear'))

def test_every_step_learns():
    f = net(MDCUN)
    f(*pair()).square().mean().backward()
    assert (f.steps.grad!=0).all()
