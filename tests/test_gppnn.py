"GPPNN: golden counts, the equations written out again, and the ways a user may call it."
import pytest, torch, torch.nn.functional as F
from pansharp_nb.data.scenes import to_tensors
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.losses import l1
from pansharp_nb.models.baselines.gppnn import GPPNN
from pansharp_nb.models.counting import macs, macs_thop, outline, parameters

@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

def pair(bands=4, h=9, w=6, r=4, B=2, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    return torch.rand(B, bands, h, w, generator=g, dtype=dtype), torch.rand(B, 1, r*h, r*w, generator=g, dtype=dtype)

def net(seed=0, **kw):
    torch.manual_seed(seed)
    return GPPNN(**(dict(n=8, K=2) | kw)).eval()

@pytest.mark.parametrize('bands,n,giga,digits', [(4, 119808, 5.59, 2), (8, 238592, 11.107, 3)])
def test_count(bands, n, giga, digits):
    "PreMix's Table 3: 0.239 M and 11.11 G, eight bands. Nothing is transposed, so thop agrees (below)."
    f,x = outline(lambda: GPPNN(bands), bands)
    assert parameters(f)==n and round(macs(f, x)/1e9, digits)==giga

def test_count_thop():
    f,x = outline(lambda: GPPNN(K=1), size=32)
    assert macs_thop(f, x)==macs(f, x)

def by_hand(s, ms, pan, K, corners):
    "From a state dict, without the package's modules."
    def unit(x, k):
        a,b = s[k+'.0.weight'],s[k+'.2.weight']
        return F.conv2d(F.conv2d(x, a, padding=a.shape[-1]//2).relu(), b, padding=b.shape[-1]//2)
    def to(x, like): return F.interpolate(x, like.shape[2:], mode='bicubic', align_corners=corners)
    x = to(ms, pan)
    for k in range(K):
        a,b = f'ms.{k}.',f'pan.{k}.'
        x = unit(x + to(unit(ms - to(unit(x, a+'f'), ms), a+'g'), x), a+'prox')
        x = unit(x + unit(pan - unit(x, b+'f'), b+'g'), b+'prox')
    return x

@pytest.mark.parametrize('corners', [True, False])
def test_equations(corners):
    n,(ms,pan) = net(bands=5, corners=corners).double(),pair(5, dtype=torch.float64)
    with torch.no_grad(): torch.testing.assert_close(n(ms, pan), by_hand(n.state_dict(), ms, pan, 2, corners), rtol=1e-12, atol=1e-12)

def test_homogeneous():
    "No bias, ReLU only: k times the light in, k times the light out."
    n,(ms,pan) = net().double(),pair(dtype=torch.float64)
    with torch.no_grad():
        for k in (0, .5, 7): torch.testing.assert_close(n(k*ms, k*pan), k*n(ms, pan))

@pytest.mark.parametrize('bands,r,h,w', [(1, 4, 5, 3), (3, 2, 7, 9), (4, 4, 4, 4), (8, 8, 3, 2), (4, 4, 1, 1)])
def test_shapes(bands, r, h, w):
    "Any bands, ratio and size; the input is left as it was."
    n,(ms,pan) = net(bands=bands, ratio=r),pair(bands, h, w, r)
    before = ms.clone(),pan.clone()
    with torch.no_grad(): x = n(ms, pan)
    assert x.shape==(2, bands, r*h, r*w) and x.isfinite().all()
    assert torch.equal(before[0], ms) and torch.equal(before[1], pan)

def test_wrong_shapes():
    n,(ms,pan) = net(),pair()
    wrong = (ms[:, :3], pan, 'built for 4 bands'), (ms, pan[..., 1:], 'wants a PAN of'), (ms, ms, 'one PAN band')
    for m,p,why in (*wrong, (ms[0], pan[0], 'want ms')):
        with pytest.raises(ValueError, match=why): n(m, p)

def test_both_inputs_matter():
    n,(ms,pan) = net(),pair()
    with torch.no_grad(): assert not torch.equal(n(ms, pan), n(0*ms, pan)) and not torch.equal(n(ms, pan), n(ms, 0*pan))

def test_ways_to_call():
    "One image of a batch alone, channels last, autocast, a copied state."
    n,(ms,pan) = net(),pair()
    last = dict(memory_format=torch.channels_last)
    with torch.no_grad():
        x = n(ms, pan)
        torch.testing.assert_close(n(ms[:1], pan[:1]), x[:1], rtol=1e-4, atol=1e-5)
        with torch.autocast('cpu', torch.bfloat16): y = n(ms, pan)
        m = net(1)
        m.load_state_dict(n.state_dict())
        assert torch.equal(m(ms, pan), x)
        torch.testing.assert_close(n.to(**last)(ms.to(**last), pan.to(**last)), x, rtol=1e-4, atol=1e-5)
    assert (y.float()-x).abs().max()<.05*x.abs().max()

def test_learns():
    "Every parameter gets a gradient; one made-up patch is fitted."
    n = net(n=16, K=4).train()
    ms,pan,gt = (z/2047 for z in to_tensors(made_up('QB', size=32)))
    opt,ls = torch.optim.Adam(n.parameters(), lr=1e-2),[]
    for _ in range(60):
        l = l1(n(ms, pan), gt)
        opt.zero_grad()
        l.backward()
        ls.append(l.item())
        if len(ls)==1: assert all(p.grad is not None and p.grad.abs().sum()>0 for p in n.parameters())
        opt.step()
    assert ls[-1]<ls[0]/5
