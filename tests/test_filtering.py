"Predictive filtering and the branch filters beyond what their pages show: dtypes, layouts, borders, memory, other people's code."
import importlib.util, os, subprocess, sys, threading
import pytest, torch, torch.nn.functional as F
import pansharp_nb.layers.filtering as mod
from pansharp_nb.layers.branches import equalisation_stats, equalise, high_pass, subsample
from pansharp_nb.layers.filtering import PredictiveFilter, predictive_filter, unfold_filter

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
devices = ['cpu', pytest.param('cuda', marks=gpu)]

@pytest.fixture
def threads(request):
    n = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(n)

def make(B=2, C=3, K=5, H=23, W=19, one=False, dtype=torch.float64, device='cpu', cl=False, seed=0):
    g = torch.Generator().manual_seed(seed)
    x,k,d = (torch.randn(B, c, H, W, generator=g, dtype=torch.float64).to(device, dtype) for c in (1 if one else C, C*K*K, C))
    if cl: k = k.contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(), k.requires_grad_(), d

def agree(x, k, g, C, tol=1e-12):
    ours,want = predictive_filter(x, k, C),unfold_filter(x, k, C)
    torch.testing.assert_close(ours, want, rtol=tol, atol=tol)
    for a,b in zip(torch.autograd.grad(ours, (x, k), g), torch.autograd.grad(want, (x, k), g)): torch.testing.assert_close(a, b, rtol=tol, atol=tol)

@pytest.mark.parametrize('device', devices)
@pytest.mark.parametrize('cl', [False, True])
@pytest.mark.parametrize('one', [False, True])
@pytest.mark.parametrize('K', [1, 3, 5, 7, 9, 11])
def test_values_and_both_gradients(K, one, cl, device): agree(*make(K=K, one=one, cl=cl, device=device), 3)

@pytest.mark.parametrize('H,W', [(3, 3), (3, 90), (90, 3), (300, 301), (700, 131)])
def test_sides(H, W): agree(*make(1, 4, 5, H, W), 4)

def test_many_bands_and_images(): agree(*make(5, 16, 3, 40, 30), 16)

def cut(n): return lambda k: [(i, min(i+n, k.shape[3])) for i in range(0, k.shape[3], n)]

@pytest.mark.parametrize('threads', [1, 3], indirect=True)
@pytest.mark.parametrize('cl', [False, True])
def test_strip_borders(cl, threads, monkeypatch):
    "Strips shorter than the window's half are mirrored and folded rightly, side by side too."
    x,k,g = make(K=7, H=17, cl=cl)
    for n in (1, 2, 3, 5, 6, 7, 16):
        monkeypatch.setattr(mod, '_strips', cut(n))
        agree(x, k, g, 3)

def test_gradcheck():
    for one in (False, True):
        x,k,_ = make(1, 2, 3, 5, 4, one)
        assert torch.autograd.gradcheck(lambda x,k: predictive_filter(x, k, 2), (x, k))

def test_single_precision():
    x,k,g = make(K=5, H=64, W=64, dtype=torch.float32)
    k = (k.detach()/5).requires_grad_()
    agree(x, k, g, 3, 1e-6)

@pytest.mark.parametrize('device', devices)
@pytest.mark.parametrize('dtype,tol', [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)])
def test_half_precision(dtype, tol, device):
    "One rounding of the exact result, not one per tap."
    x,k,g = make(dtype=dtype, device=device)
    ours = predictive_filter(x, k)
    wide = [t.detach().double().requires_grad_() for t in (x, k)]
    want = unfold_filter(*wide)
    assert ours.dtype==dtype
    torch.testing.assert_close(ours.double(), want, rtol=tol, atol=1e-3)
    got,ref = torch.autograd.grad(ours, (x, k), g),torch.autograd.grad(want, wide, g.double())
    for a,b in zip(got, ref):
        assert a.dtype==dtype
        torch.testing.assert_close(a.double(), b, rtol=tol, atol=1e-3)

def test_mixed_precision():
    "Under autocast the kernels come in half, the image does not."
    m,h,x = PredictiveFilter(8, 3), torch.rand(1, 8, 16, 16), torch.rand(1, 3, 16, 16)
    with torch.autocast('cpu', torch.bfloat16): y = m(h, x)
    assert y.dtype==torch.float32
    torch.testing.assert_close(y, m(h, x), rtol=.05, atol=.02)
    y.sum().backward()
    assert m.predictor.weight.grad.abs().sum()>0

def test_layouts():
    x,k,g = make()
    with torch.no_grad():
        want = unfold_filter(x, k)
        turned = [t.transpose(2, 3).contiguous().transpose(2, 3) for t in (x, k)]
        steps = [F.interpolate(t, scale_factor=2)[..., ::2, ::2] for t in (x, k)]
        last = [t.contiguous(memory_format=torch.channels_last) for t in (x, k)]
        for a,b in (turned, steps, last): torch.testing.assert_close(predictive_filter(a, b), want)
    for a,b in (turned, steps, last): agree(a.requires_grad_(), b.requires_grad_(), g.transpose(2, 3).contiguous().transpose(2, 3), 3)

def test_expanded_gradient():
    x,k,_ = make()
    a,b = (torch.autograd.grad(f(x, k).sum(), (x, k)) for f in (predictive_filter, unfold_filter))
    for p,q in zip(a, b): torch.testing.assert_close(p, q)

def test_one_input_at_a_time():
    x,k,g = make()
    wx,wk = torch.autograd.grad(unfold_filter(x, k), (x, k), g)
    torch.testing.assert_close(torch.autograd.grad(predictive_filter(x, k.detach()), x, g)[0], wx)
    torch.testing.assert_close(torch.autograd.grad(predictive_filter(x.detach(), k), k, g)[0], wk)
    assert not predictive_filter(x.detach(), k.detach()).requires_grad

def test_inputs_are_left_alone():
    x,k,g = make()
    a,b = x.detach().clone(),k.detach().clone()
    predictive_filter(x, k).backward(g)
    assert torch.equal(a, x) and torch.equal(b, k)

def test_refusals():
    x,k,_ = make()
    for K in (3, 5, 11):
        n = K//2
        k1 = torch.rand(1, K*K, n, 40)
        with pytest.raises(ValueError, match='too short'): predictive_filter(torch.rand(1, 1, n, 40), k1)
        with pytest.raises(ValueError, match='too short'): predictive_filter(torch.rand(1, 1, 40, n), k1.mT)
        assert predictive_filter(torch.rand(1, 1, n+1, 40), torch.rand(1, K*K, n+1, 40)).shape==(1, 1, n+1, 40)
    with pytest.raises(ValueError, match='do not fit'): predictive_filter(x[:1], k)
    with pytest.raises(ValueError, match='odd window'): predictive_filter(x, torch.rand(2, 48, 23, 19))
    with pytest.raises(ValueError, match='want 1 or 3'): predictive_filter(x[:, :2], k, 3)
    with pytest.raises(ValueError, match='odd'): PredictiveFilter(8, 3, 4)
    with pytest.raises(ValueError, match='too short'), torch.no_grad(): PredictiveFilter(2, 1, 5)(torch.rand(1, 2, 2, 9), torch.rand(1, 1, 2, 9))

def test_second_derivative_raises():
    x,k,g = make()
    with pytest.raises(RuntimeError, match='no second derivative'): torch.autograd.grad(predictive_filter(x, k), x, g, create_graph=True)

# --- threads -----------------------------------------------------------------------------------------------------------

def bits(x, k, g, C, m, h):
    "Result and gradients, and the module's at inference."
    y = predictive_filter(x, k, C)
    with torch.no_grad(): return [y, *torch.autograd.grad(y, (x, k), g), m(h, x)]

@pytest.mark.parametrize('one', [False, True])
@pytest.mark.parametrize('cl', [False, True])
@pytest.mark.parametrize('B,K,H,W', [(1, 5, 190, 160), (3, 3, 130, 170), (1, 11, 70, 128)])
def test_same_bytes_whatever_the_threads(B, K, H, W, cl, one):
    x,k,g = make(B, 4, K, H, W, one, torch.float32, cl=cl)
    torch.manual_seed(0)
    m,h = PredictiveFilter(2, 4, K), torch.rand(B, 2, H, W)
    was,all = torch.get_num_threads(),[]
    for n in (1, 2, 5, 2):
        torch.set_num_threads(n)
        all.append(bits(x, k, g, 4, m, h))
        assert torch.get_num_threads()==n
    torch.set_num_threads(was)
    for a in all[1:]: assert [torch.equal(p, q) for p,q in zip(a, all[0])]==[True]*4

@pytest.mark.parametrize('threads', [2, 3], indirect=True)
def test_strips_are_the_work_of_threads_that_are_alone(threads, monkeypatch):
    seen,apply = [],mod._apply
    def spy(*a):
        seen.append((threading.get_ident(), torch.get_num_threads()))
        return apply(*a)
    monkeypatch.setattr(mod, '_apply', spy)
    m,h,x = PredictiveFilter(4, 4, 5), torch.rand(1, 4, 300, 256), torch.rand(1, 4, 300, 256)
    with torch.no_grad(): m(h, x)
    assert len(seen)>threads and {n for _,n in seen}=={1}
    assert threading.get_ident() not in {i for i,_ in seen} and len({i for i,_ in seen})<=threads
    later = []
    t = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    t.start()
    t.join()
    assert later==[threads]==[torch.get_num_threads()] # nobody else is left alone

@pytest.mark.parametrize('threads', [1, 2], indirect=True)
def test_modes_go_along(threads):
    "Precision and inference mode are the caller's; a failure in a strip is the caller's too."
    m,h,x = PredictiveFilter(2, 4, 5), torch.rand(1, 2, 160, 140), torch.rand(1, 4, 160, 140)
    with torch.no_grad(): want = m(h, x)
    with torch.inference_mode():
        y = m(h, x)
        assert y.is_inference() and torch.equal(y, want)
        assert torch.equal(m(h.clone(), x.clone()), want)
    with torch.no_grad():
        for kind in (torch.bfloat16, torch.float16):
            with torch.autocast('cpu', kind):
                y = m(h, x)
                assert torch.equal(y, predictive_filter(x, m.predictor(h))) and not torch.equal(y, want)
        assert torch.equal(m(h, x), want) and not y.requires_grad
        with pytest.raises(RuntimeError, match='same dtype|type'): m(h.double(), x)

# --- the module --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('threads', [1, 2], indirect=True)
@pytest.mark.parametrize('device', devices)
@pytest.mark.parametrize('K,one,cl', [(1, False, False), (3, True, True), (5, False, True), (5, True, False)])
def test_module_by_strips(K, one, cl, device, threads):
    torch.manual_seed(0)
    m = PredictiveFilter(6, 3, K).double().to(device)
    h,x = torch.rand(2, 6, 41, 25, dtype=torch.float64, device=device), torch.rand(2, 1 if one else 3, 41, 25, dtype=torch.float64, device=device)
    if cl: h = h.contiguous(memory_format=torch.channels_last)
    want = unfold_filter(x, m.predictor(h), 3)
    torch.testing.assert_close(m(h, x), want)
    with torch.no_grad():
        for n in (1, 2, 7, 40): torch.testing.assert_close(mod._by_strips(m.predictor, h, x, 3, n), want)

@pytest.mark.parametrize('threads', [1, 2], indirect=True)
def test_module_never_makes_all_kernels(threads):
    "At inference no convolution returns more than a share of the rows; a hook on the predictor, and training, see all."
    from torch.utils._python_dispatch import TorchDispatchMode
    class Rows(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            y = func(*args, **(kwargs or {}))
            if 'convolution' in func.__name__: rows.append(y.shape[2])
            return y
    m,h,x = PredictiveFilter(2, 4, 5), torch.rand(1, 2, 300, 256), torch.rand(1, 4, 300, 256)
    def run():
        with Rows(): return m(h, x)
    rows = []
    want = run()
    assert rows==[300]
    rows = []
    with torch.no_grad(): got = run()
    assert sum(rows)==300 and max(rows)<200
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    seen,rows = [],[]
    m.predictor.register_forward_hook(lambda m,i,o: seen.append(o.shape))
    with torch.no_grad(): run()
    assert seen==[(1, 100, 300, 256)] and rows==[300]

def test_parameters():
    "PreMix's golden count of one predictor: 10 404 at 4 bands, 32 channels, K 3."
    m = PredictiveFilter(32, 4)
    assert sum(p.numel() for p in m.parameters())==10404 and list(m.state_dict())==['predictor.weight', 'predictor.bias']

child = """
import sys, torch
from pathlib import Path
from pansharp_nb.layers.filtering import predictive_filter, unfold_filter
def kib(key): return int(next(l for l in Path('/proc/self/status').read_text().splitlines() if l.startswith(key)).split()[1])
torch.set_num_threads(1)
f = dict(ours=predictive_filter, unfold=unfold_filter)[sys.argv[1]]
def both(n):
    x,k = torch.rand(1, 4, n, n, requires_grad=True), torch.rand(1, 100, n, n, requires_grad=True)
    g = torch.rand(1, 4, n, n)
    Path('/proc/self/clear_refs').write_text('5')
    before = kib('VmRSS')
    f(x, k).backward(g)
    return kib('VmHWM')-before
both(16)
print(both(512)*1024/(512*512*4))
"""

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_memory_is_free_of_unfolding():
    "Forward + backward at K = 5, in planes of the image: 100 are the kernels' gradient; unfolding adds 200, we add a few."
    env = dict(os.environ, MALLOC_MMAP_THRESHOLD_='131072')
    def planes(which): return float(subprocess.run([sys.executable, '-c', child, which], env=env, capture_output=True, text=True, check=True).stdout)
    assert planes('ours')<100+30
    assert planes('unfold')>100+150

# --- other ways to run it ----------------------------------------------------------------------------------------------

def test_traced_form():
    "What `torch.compile` and `torch.export` get."
    for one in (False, True):
        x,k,g = make(one=one)
        y = mod._traced(x, k.unflatten(1, (3, -1)))
        torch.testing.assert_close(y, unfold_filter(x, k, 3))
    m = PredictiveFilter(4, 3)
    p = torch.export.export(m, (torch.rand(1, 4, 9, 8), torch.rand(1, 3, 9, 8)))
    h,x = torch.rand(1, 4, 9, 8),torch.rand(1, 3, 9, 8)
    torch.testing.assert_close(p.module()(h, x), m(h, x))

triton = """
import torch, torch.nn.functional as F
import pansharp_nb.layers.filtering as f
torch.manual_seed(0)
for dt,tol in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 4e-2)):
    for C,CX,K in ((3, 3, 3), (3, 1, 5), (2, 2, 1)):
        for cl in (False, True):
            x,k = torch.randn(2, CX, 9, 7, dtype=dt), torch.randn(2, C*K*K, 9, 7, dtype=dt)
            if cl: k = k.contiguous(memory_format=torch.channels_last)
            k,w = k.unflatten(1, (C, -1)),f._wide(x, k)
            g = torch.randn(2, C, 9, 7, dtype=w)
            def go(fwd, bwd):
                y,gx,gk = torch.zeros(2, C, 9, 7, dtype=w), torch.zeros_like(x, dtype=w), f._empty(k)
                fwd(x, k, y)
                bwd(x, k, g, gx, gk)
                return y, gx, gk
            for a,b in zip(go(f._forward, f._backward), go(f._forward_gpu, f._backward_gpu)): torch.testing.assert_close(a, b, rtol=tol, atol=tol)
"""

def test_triton_kernels_interpreted():
    "The GPU kernels run on the CPU by Triton's interpreter, where Triton is installed."
    if importlib.util.find_spec('triton') is None: pytest.skip('no triton')
    r = subprocess.run([sys.executable, '-c', triton], env=dict(os.environ, TRITON_INTERPRET='1'), capture_output=True, text=True)
    assert r.returncode==0, r.stderr

def test_triton_is_imported_lazily():
    r = subprocess.run([sys.executable, '-c', 'import sys, pansharp_nb.layers.filtering; assert "triton" not in sys.modules'])
    assert r.returncode==0

@gpu
def test_gpu_memory():
    x,k,g = make(1, 4, 5, 1024, 1024, dtype=torch.float32, device='cuda')
    predictive_filter(x, k).backward(g)
    x.grad = k.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    predictive_filter(x, k).backward(g)
    assert torch.cuda.max_memory_allocated()-before-k.numel()*4<6*x.numel()*4

# --- branches ----------------------------------------------------------------------------------------------------------

def image(H=50, W=61, C=3, dtype=torch.float32):
    return torch.rand(2, C, H, W, generator=torch.Generator().manual_seed(0), dtype=torch.float64).pow(3).mul(1.2).sub(.05).to(dtype)

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('H,W', [(64, 64), (65, 64), (50, 61), (9, 9), (9, 130), (17, 33), (127, 128)])
def test_clahe_is_kornias(H, W, dtype):
    kornia = pytest.importorskip('kornia', '0.9')
    x = image(H, W, dtype=dtype)
    torch.testing.assert_close(equalise(x), kornia.enhance.equalize_clahe(x.clamp(0, 1)), rtol=0, atol=3e-7)

def test_high_pass_is_kornias():
    kornia = pytest.importorskip('kornia')
    x = image(dtype=torch.float64)
    torch.testing.assert_close(high_pass(x), x-kornia.filters.gaussian_blur2d(x, (3, 3), (1.5, 1.5)))
    with pytest.raises(ValueError, match='too short'): high_pass(x[..., :1])

@pytest.mark.parametrize('kind', ['clahe', 'global'])
def test_tiles_of_the_whole(kind):
    "With the whole image's tables, any tile equals the whole's result bit for bit."
    x = image(83, 71)
    whole,s = equalise(x, kind),equalisation_stats(x, kind)
    tiles = [[equalise(x[..., i:i+20, j:j+33], stats=s, at=(i, j)) for j in range(0, 71, 33)] for i in range(0, 83, 20)]
    assert torch.equal(torch.cat([torch.cat(t, 3) for t in tiles], 2), whole)
    assert whole.min()>=0 and whole.max()<=1 and torch.equal(whole, equalise(x, kind))

def test_bands_and_images_are_alone():
    x = image()
    for kind in ('clahe', 'global'): assert torch.equal(equalise(x[1:, 2:], kind), equalise(x, kind)[1:, 2:])

def test_global_is_the_rank():
    x = image(C=1)[:1]
    v = (x.clamp(0, 1)*255).long().flatten()
    want = (torch.bincount(v, minlength=256).cumsum(0)*255/v.numel()).round()[v]/255
    torch.testing.assert_close(equalise(x, 'global').flatten(), want)

def test_flat_and_bad_pixels():
    assert equalise(torch.full((1, 1, 32, 32), .5)).isfinite().all()
    x = image()
    x[0, 0, 3, 3] = float('nan')
    assert equalise(x).isfinite().all()
    with pytest.raises(ValueError, match='clahe or global'): equalise(x, 'local')
    with pytest.raises(ValueError, match='images and bands'): equalise(x[:1], stats=equalisation_stats(x))

def test_equalise_has_no_gradient():
    assert not equalise(image().requires_grad_()).requires_grad
    x = image().requires_grad_()
    high_pass(x).square().sum().backward()
    assert x.grad.abs().sum()>0

@pytest.mark.parametrize('sub', ['nearest', 'area', 'bicubic'])
def test_subsample(sub):
    x = image(64, 32)
    for s in (1, 2, 4): assert subsample(x, s, sub).shape==(2, 3, 64//s, 32//s)
    with pytest.raises(ValueError, match='not multiples'): subsample(x[..., :31], 2, sub)
    with pytest.raises(ValueError, match='sub is'): subsample(x, 2, 'linear')
    torch.testing.assert_close(subsample(torch.ones(1, 1, 8, 8), 4, sub), torch.ones(1, 1, 2, 2))
