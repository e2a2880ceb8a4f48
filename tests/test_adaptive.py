"LAGConv and ADKNet: golden counts, and the layers against their definitions."
import pytest, torch, torch.nn.functional as F
from conftest import net, pair
from pansharp_nb.models.baselines.adaptive import ADKLayer, ADKNet, LAConv, LAGNet, adaptive_conv, unfold_conv
from pansharp_nb.models.counting import macs, macs_thop, memory, outline, parameters

pytestmark = pytest.mark.usefixtures('one_thread')

both = pytest.mark.parametrize('make', [LAGNet, ADKNet])

@pytest.mark.parametrize('make,bands,want', [(LAGNet, 4, 148457), (LAGNet, 8, 151397), (ADKNet, 4, 50397), (ADKNet, 8, 64713)])
def test_count(make, bands, want): assert parameters(outline(lambda: make(bands), bands)[0])==want

@pytest.mark.parametrize('bands,giga,thop', [(4, 8.26, 2.05), (8, 8.43, 2.07)])
def test_macs_lagnet(bands, giga, thop):
    "The specification adds thop's count, which has a toll on pooling, and the matrix products thop does not see."
    n,x = outline(lambda: LAGNet(bands), bands)
    pool = (bands+1 + 11*32)*(256**2+1)
    assert round((macs(n, x)+pool)/1e9, 2)==giga and round(macs_thop(n, x)/1e9, 2)==thop
    products = 9*256**2*(32*(bands+1) + 10*32*32 + 32*bands)
    assert macs(n, x)-products==macs_thop(n, x)-pool

def test_macs_adknet():
    "By hand: two deconvolutions, three convolutions, and per layer the spatial branch, the spectral branch and the filter."
    n,x = outline(lambda: ADKNet(4))
    outer = 2*4*4*64*64**2 + 256**2*(4*25*60 + 25*60 + 60*9*4)
    layer = 256**2*(60*9 + 60*9 + 2*9*81 + 60*9) + 60*3+3*540
    assert macs(n, x)==outer+7*layer

def slow_adk(s, x, y):
    "The layer from a state dict, one tap at a time."
    def conv(v, k, **kw): return F.conv2d(v, s[k+'.weight'], s[k+'.bias'], **kw)
    def norm(v, dim): return (v-v.mean(dim, keepdim=True))/v.std(dim, keepdim=True)
    a = conv(conv(conv(y, 'spatial.0', padding=1, groups=y.shape[1]), 'spatial.1'), 'spatial.2', padding=1)
    a = norm(conv(F.leaky_relu(a, .2), 'spatial.4', padding=1), 1)*(2/(1+.01**2))**.5/3
    w = conv(F.leaky_relu(conv(x.mean((2, 3), keepdim=True), 'spectral.1'), .2), 'spectral.3')
    w = norm(w.view(len(x), -1, 9), 2)*s['std']
    z,(H,W) = F.pad(x, (1,)*4),x.shape[2:]
    return sum(w[:, :, t, None, None]*a[:, t:t+1]*z[..., t//3:t//3+H, t%3:t%3+W] for t in range(9))

def test_adk_layer():
    torch.manual_seed(0)
    f,x,y = ADKLayer(20).double(),*torch.randn(2, 2, 20, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(f(x, y), slow_adk(f.state_dict(), x, y), rtol=1e-7, atol=1e-7)

def test_la_layer():
    "Pixel by pixel: a kernel of its own for each, and one bias for the image."
    torch.manual_seed(0)
    f,x = LAConv(3, 5).double(),torch.randn(1, 3, 6, 5, dtype=torch.float64)
    a,b,z,y = f.local(x),f.bias(x)[0, :, 0, 0],F.pad(x, (1,)*4),f(x)
    assert 0<a.min() and a.max()<1
    for i in range(6):
        for j in range(5):
            want = torch.einsum('mnst,st,nst->m', f.weight, a[0, :, i, j].view(3, 3), z[0, :, i:i+3, j:j+3])+b
            torch.testing.assert_close(y[0, :, i, j], want, rtol=1e-9, atol=1e-9)

@pytest.mark.parametrize('W', [9, 1024]) # one strip, and strips of a few rows
@pytest.mark.parametrize('k,G,m,wb', [(1, 1, 4, 1), (3, 1, 4, 1), (3, 6, 1, 2), (5, 6, 2, 1), (3, 2, 3, 2)])
def test_strips(k, G, m, wb, W):
    "Values and gradients of the definition, whatever the strips."
    torch.manual_seed(0)
    dt = dict(dtype=torch.float64, requires_grad=True)
    x,a,w = torch.randn(2, 6, 23, W, **dt),torch.randn(2, k*k, 23, W, **dt),torch.randn(wb, G, m, 6//G*k*k, **dt)
    ours,want = adaptive_conv(x, a, w),unfold_conv(x, a, w)
    torch.testing.assert_close(ours, want, rtol=1e-10, atol=1e-10)
    g = torch.randn_like(want)
    for u,v in zip(*(torch.autograd.grad(y, (x, a, w), g) for y in (ours, want))): torch.testing.assert_close(u, v, rtol=1e-9, atol=1e-9)

def test_lean():
    "The windows of a whole layer, 9 x 32 planes of the image, never exist at once."
    n,x = outline(LAGNet, size=1024)
    assert memory(n, x)<9*32*1024**2*4
    x,a,w = (torch.randn(s, requires_grad=True) for s in ((1, 32, 64, 64), (1, 9, 64, 64), (1, 1, 32, 288)))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda t: t): adaptive_conv(x, a, w)
    assert sum(kept)==x.numel()+a.numel()+w.numel()

def test_wrong_kernels():
    for make in (LAGNet, ADKNet):
        with pytest.raises(ValueError, match='odd'): make(ks=4)
    x,a,w = torch.rand(2, 6, 5, 5),torch.rand(2, 9, 5, 5),torch.rand(1, 1, 4, 54)
    for bad,match in (((x, a[:, :8], w), 'odd window'), ((x[:1], a, w), 'do not fit'), ((x, a, w[..., 1:]), 'does not fit')):
        with pytest.raises(ValueError, match=match): adaptive_conv(*bad)

@both
def test_exports(make):
    "`torch.export` gets the definition, which gives the same image."
    n,(ms,pan) = net(make),pair()
    with torch.no_grad(): torch.testing.assert_close(torch.export.export(n, (ms, pan)).module()(ms, pan), n(ms, pan), rtol=1e-4, atol=1e-5)
