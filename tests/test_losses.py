"Losses against plain loops and the metrics, their gradients, and what they do on a real scene."
import numpy as np, pytest, torch
from functools import partial
from pansharp_nb.data.degrade import interp23tap, mtf_filter, wald
from pansharp_nb.data.scenes import open_scene, to_tensors
from pansharp_nb.data.sensors import sensor
from pansharp_nb.losses import (corr_threshold, kl_loss, l1, l2, lambda_pnn_loss, local_corr, reproject, sam_loss, sidp_loss,
    spectral_l1, structural_loss, two_scale_l2, zpnn_loss)
from pansharp_nb.layers.sizes import downsample
from pansharp_nb.metrics.reference import ergas, q2n, sam

def rand(*s, seed=0, dtype=torch.float64):
    return torch.rand(*s, generator=torch.Generator().manual_seed(seed), dtype=dtype)

def four(B=2, C=3, H=8, W=12): # x, pan, up, gray
    up = rand(B, C, H, W, seed=2)
    return rand(B, C, H, W), rand(B, 1, H, W, seed=1), up, up.mean(1, keepdim=True).expand_as(up)

@pytest.mark.parametrize('axis', ['width', 'image', 'bands'])
@pytest.mark.parametrize('direction', ['pq', 'qp'])
def test_kl(axis, direction):
    "Distribution by distribution, in numpy."
    x,pan,up,gray = four()
    def rows(z):
        z = z.numpy()
        z = z.transpose(0, 2, 3, 1) if axis=='bands' else z
        return z.reshape(-1, dict(width=12, image=96, bands=3)[axis])
    def soft(z): return np.exp(z)/np.exp(z).sum(1, keepdims=True)
    p,q = soft(rows(up-gray)),soft(rows(x-pan))
    if direction=='qp': p,q = q,p
    kl = np.array([sum(a*np.log(a/b) for a,b in zip(u, v)) for u,v in zip(p, q)])
    f = partial(kl_loss, x, pan, up, gray, axis, direction=direction)
    want = dict(sum=kl.sum(), batchmean=kl.sum()/2, mean=kl.sum()/x.numel(), per_row=kl.mean())
    for how,v in want.items(): assert abs(f(how).item()-v)<1e-12+1e-9*v

def test_kl_refuses():
    with pytest.raises(ValueError, match='width, image or bands'): kl_loss(*four(), axis='height')
    with pytest.raises(ValueError, match='batchmean'): kl_loss(*four(), reduction='none')

def test_kl_float32():
    "The log of a softmax never meets a zero, however far apart the values are."
    x,pan,up,gray = (z.float() for z in four())
    v = kl_loss(500*x, pan, 500*up, 500*gray)
    assert v.isfinite() and v>0

def test_sam():
    x,_,y,_ = four()
    torch.testing.assert_close(sam_loss(x, y), sam(x, y).mean(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sam_loss(x*rand(2, 1, 8, 12, seed=5)+0, y), sam_loss(x, y), rtol=1e-6, atol=1e-6)

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_sam_at_the_edges(dtype):
    "Perfect, opposite, black in the result, black in the reference, black all over."
    y = rand(1, 4, 6, 6, dtype=dtype)
    for x in (y, -y, y*0, y+1e-9):
        x = x.clone().requires_grad_()
        g, = torch.autograd.grad(sam_loss(x, y), x)
        assert g.isfinite().all() and g.abs().max()<1e5
    holes = y*(rand(1, 1, 6, 6, seed=3, dtype=dtype)>.5)
    torch.testing.assert_close(sam_loss(y, holes), torch.zeros((), dtype=dtype), atol=.09, rtol=0)
    assert sam_loss(y, 0*y)==0 and abs(sam_loss(0*y, y)-90)<.1

def test_sidp_loss():
    x,pan,up,gray = four()
    a,b = sam_loss(x, up),kl_loss(x, pan, up, gray)
    for alpha in (0, .3, 1): torch.testing.assert_close(sidp_loss(x, pan, up, gray, alpha), alpha*a+(1-alpha)*b)

def loop_corr(x, y, n, e):
    "Window by window; the border is repeated."
    def mean(z):
        u = np.pad(z, (((n-1)//2, n//2),)*2, 'edge')
        return np.array([[u[i:i+n, j:j+n].mean() for j in range(z.shape[1])] for i in range(z.shape[0])])
    a,b = x-mean(x),y-mean(y)
    return (mean(a*b)+e)/np.sqrt((mean(a*a)+e)*(mean(b*b)+e))

@pytest.mark.parametrize('n', [2, 4, 5])
def test_local_corr(n):
    x,y = rand(2, 3, 9, 11),rand(2, 1, 9, 11, seed=1)
    got = local_corr(x, y, n, eps=1e-8)
    for b in range(2):
        for c in range(3): np.testing.assert_allclose(got[b, c], loop_corr(x[b, c].numpy(), y[b, 0].numpy(), n, 1e-8), atol=1e-10)
    assert local_corr(x, y, n).abs().max()<=1

def test_local_corr_of_flat():
    "Flat against flat agrees, flat against texture does not; no gradient explodes."
    flat,y = torch.full((1, 1, 9, 9), .5, requires_grad=True),rand(1, 1, 9, 9, dtype=torch.float32)
    assert (local_corr(flat, 0*y)>.99).all() and (local_corr(flat, y).abs()<.01).all()
    g, = torch.autograd.grad(structural_loss(flat, y), flat)
    assert g.isfinite().all()

def test_structural():
    pan = rand(2, 1, 24, 24)
    x = torch.tensor([.1, 1, 9])[:, None, None]*pan + 3
    assert structural_loss(x, pan)<1e-6 and abs(structural_loss(.5-pan, pan)-2)<1e-6
    y = rand(2, 3, 24, 24, seed=1)
    thr = rand(2, 3, 24, 24, seed=2)
    d = 1-local_corr(y, pan)
    torch.testing.assert_close(structural_loss(y, pan, thr), d.where(d>thr, 0).mean())

def test_threshold():
    up,pan = rand(1, 4, 32, 32).requires_grad_(),rand(1, 1, 32, 32, seed=1)
    thr = corr_threshold(up, pan, 'QB')
    assert not thr.requires_grad and thr.shape==up.shape
    torch.testing.assert_close(thr, 1-local_corr(up.detach(), mtf_filter(pan, (.34,)), 16))

def test_reproject_shift():
    "Each band has its own grid; out of the image the last pixel is repeated."
    x = rand(2, 4, 48, 64)
    y = reproject(x, 'IKONOS', shift=[(0, 0), (1, 0), (0, -2), (30, 30)])
    full = mtf_filter(x, sensor('IKONOS').gains)/reproject(torch.ones_like(x), 'IKONOS', unit=False)[:, :, :1, :1]
    torch.testing.assert_close(y[:, 0], full[:, 0, 2::4, 2::4])
    torch.testing.assert_close(y[:, 1], full[:, 1, 3::4, 2::4])
    torch.testing.assert_close(y[:, 2], full[:, 2, 2::4, 0::4])
    torch.testing.assert_close(y[:, 3, -1, -1], full[:, 3, -1, -1])

losses = dict(
    sam=lambda x: sam_loss(x, rand(1, 3, 8, 8, seed=1)),
    kl=lambda x: kl_loss(x, rand(1, 1, 8, 8, seed=1), rand(1, 3, 8, 8, seed=2), rand(1, 3, 8, 8, seed=3)),
    image=lambda x: kl_loss(x, rand(1, 1, 8, 8, seed=1), rand(1, 3, 8, 8, seed=2), rand(1, 3, 8, 8, seed=3), 'image', direction='qp'),
    norm=lambda x: two_scale_l2(x, rand(1, 3, 4, 4, seed=1), rand(1, 3, 8, 8, seed=2), reduction='norm'),
    structural=lambda x: structural_loss(x, rand(1, 1, 8, 8, seed=1)),
    shift=lambda x: spectral_l1(x, rand(1, 3, 2, 2, seed=1), sensor('QB', 3), shift=[(1, 0), (0, 0), (-1, 2)]),
    zpnn=lambda x: zpnn_loss(x, rand(1, 3, 2, 2, seed=1), rand(1, 1, 8, 8, seed=2), sensor('QB', 3)),
    lambda_pnn=lambda x: lambda_pnn_loss(x, rand(1, 3, 2, 2, seed=1), rand(1, 1, 8, 8, seed=2), sensor('QB', 3)))

@pytest.mark.parametrize('name', losses)
def test_gradient(name): assert torch.autograd.gradcheck(losses[name], rand(1, 3, 8, 8).requires_grad_(), fast_mode=True)

def test_two_scale():
    x,x2,gt = rand(3, 4, 10, 12),rand(3, 4, 5, 6, seed=1),rand(3, 4, 10, 12, seed=2)
    half = downsample(gt, 2)
    a,b = ((u-v).numpy().reshape(3, -1) for u,v in ((x, gt), (x2, half)))
    want = dict(mean=(a**2).mean()+4*(b**2).mean(), sum_per_image=((a**2).sum(1)+4*(b**2).sum(1)).mean(),
        norm=(np.sqrt((a**2).sum(1))+4*np.sqrt((b**2).sum(1))).mean())
    for how,v in want.items(): assert abs(two_scale_l2(x, x2, gt, reduction=how).item()-v)<1e-10*v
    assert abs(want['sum_per_image']/gt[0].numel()-two_scale_l2(x, x2, gt, 1).item())<1e-12
    assert abs(l1(x, gt)-np.abs(a).mean())<1e-12 and abs(l2(x, gt)-(a**2).mean())<1e-12

@pytest.fixture(scope='module')
def wv2(scenes):
    "A Wald pair of a real scene on [0, 1], its truth and its upsampled bands."
    ms,pan,_ = to_tensors(open_scene(scenes/'WV2_imgWV2.nc'), dtype=torch.float64)
    m,p,gt = (z/2047 for z in wald(ms[..., :128, :128], pan[..., :512, :512], 'WV2'))
    return m, p, gt, interp23tap(m)

def test_real(wv2):
    "The truth has no spectral loss, and less of any loss than the upsampled bands."
    ms,pan,gt,up = wv2
    thr = corr_threshold(up, pan, 'WV2')
    kw = dict(threshold=thr, unit=False)
    assert zpnn_loss(gt, ms, pan, 'WV2', beta=0, unit=False)<1e-10
    assert lambda_pnn_loss(gt, ms, pan, 'WV2', weights=(1, 1, 0), unit=False)<1e-6
    for f in (zpnn_loss, lambda_pnn_loss): assert f(gt, ms, pan, 'WV2', **kw)<f(up, ms, pan, 'WV2', **kw)

def test_parts_are_the_metrics(wv2):
    ms,pan,gt,up = wv2
    y = reproject(up, 'WV2')
    torch.testing.assert_close(lambda_pnn_loss(up, ms, pan, 'WV2', weights=(1, 0, 0)), ergas(y, ms).mean())
    d = 1-q2n(2047*y, 2047*ms, rounding=False).mean()
    torch.testing.assert_close(lambda_pnn_loss(up, ms, pan, 'WV2', weights=(0, 1, 0)), d, rtol=1e-6, atol=1e-9)

def test_descends(wv2):
    "Plain gradient steps on the image itself, as far as the losses agree: both sink."
    ms,pan,_,up = (z[..., :16*k, :16*k].float() for z,k in zip(wv2, (1, 4, 4, 4)))
    for f in (zpnn_loss, lambda_pnn_loss):
        x = up.clone().requires_grad_()
        opt,ls = torch.optim.Adam([x], lr=1e-3),[]
        for _ in range(15):
            l = f(x, ms, pan, 'WV2')
            opt.zero_grad()
            l.backward()
            opt.step()
            ls.append(l.item())
        assert ls[-1]<.9*ls[0], f.__name__

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
def test_gpu():
    x,pan,up,gray = four(C=4, H=32, W=32)
    ms = rand(2, 4, 8, 8, seed=7)
    f = [lambda *z: sidp_loss(z[0], z[1], z[2], z[3]), lambda *z: zpnn_loss(z[0], z[4], z[1], 'QB'),
        lambda *z: lambda_pnn_loss(z[0], z[4], z[1], 'QB'), lambda *z: spectral_l1(z[0], z[4], 'QB', shift=[(1, 0)]*4)]
    for g in f: torch.testing.assert_close(g(*(z.cuda() for z in (x, pan, up, gray, ms))).cpu(), g(x, pan, up, gray, ms), rtol=1e-8, atol=1e-10)
