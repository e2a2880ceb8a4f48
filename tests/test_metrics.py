"Metrics: library oracles and properties; reference numbers where ../shared/reference lies beside the checkout."
import json, math
from pathlib import Path
import numpy as np, pytest, sewar, torch
import torchmetrics.functional.image as tm
from pansharp_nb.data.degrade import interp23tap, mtf
from pansharp_nb.metrics import noreference as nr, reference as rf

shared = Path(__file__).parents[2]/'shared'/'reference'
needs_reference = pytest.mark.skipif(not shared.is_dir(), reason='../shared/reference is not beside the checkout')
images,fused = ('WV2', 'IKONOS'),('GSA', 'BDSD-PC', 'BT-H', 'MTF-GLP-FS', 'MTF-GLP-HPM-R')

def load(*p):
    a = torch.from_numpy(np.load(shared.joinpath(*p)).astype(np.float64))
    return (a if a.dim()==3 else a[..., None]).permute(2, 0, 1)[None]

def numbers(im, scale, method): return json.loads((shared/'reference_metrics.json').read_text('utf-8'))['images'][im][scale][method]

def smooth(B, C, H, W, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(B, C+1, H+8, W+8, generator=g, dtype=torch.float64)
    z = torch.nn.functional.avg_pool2d(z, 9, 1)*9
    return (500+150*(z[:, :1]+.5*z[:, 1:])).clamp(1, 2047)

def noisy(y, s=30, seed=1): return (y+s*torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=y.dtype)).clamp(0, 2047)

def hwc(z): return z[0].permute(1, 2, 0).numpy()

# --- the toolbox's numbers ---------------------------------------------------------------------------------------------

@needs_reference
@pytest.mark.parametrize('im', images)
@pytest.mark.parametrize('method', ('EXP',)+fused)
def test_reduced_resolution(im, method):
    x = load(im, 'rr', 'I_MS.npy' if method=='EXP' else f'fused_{method}.npy')
    y,want = load(im, 'rr', 'I_GT.npy'),numbers(im, 'RR', method)
    got = rf.reference_metrics(x, y)
    for k,v in got.items(): assert v.item()==pytest.approx(want[k], rel=2e-5 if k=='Q2n' else 1e-5), k
    x,y = rf.cut(x),rf.cut(y)
    assert rf.psnr_bandmean(x, y).item()==pytest.approx(want['PSNR_bandmean'], rel=1e-5)
    assert rf.ag(x).item()==pytest.approx(want['AG_fused'], rel=1e-5)

@needs_reference
@pytest.mark.parametrize('im', images)
def test_reduced_resolution_in_float64(im):
    "EXP made in float64 has every digit of the toolbox's run."
    y,want = load(im, 'rr', 'I_GT.npy'),numbers(im, 'RR', 'EXP')
    x = interp23tap(mtf(y, im, down=True))
    for k,v in rf.reference_metrics(x, y).items(): assert v.item()==pytest.approx(want[k], rel=1e-9), k
    for k,v in rf.reference_metrics(x.float(), y.float()).items():
        assert v.dtype==torch.float32
        assert v.item()==pytest.approx(want[k], rel=2e-5), k

@needs_reference
@pytest.mark.parametrize('im', images)
def test_ground_truth_is_perfect(im):
    y,want = load(im, 'rr', 'I_GT.npy'),numbers(im, 'RR', 'GT')
    for k,v in rf.reference_metrics(y, y).items(): assert v.item()==pytest.approx(want[k], abs=1e-12), k
    assert rf.ag(rf.cut(y)).item()==pytest.approx(numbers(im, 'RR', 'GT')['AG_fused'], rel=1e-9)

@needs_reference
@pytest.mark.parametrize('im', images)
def test_full_resolution(im):
    ms,pan,want = load(im, 'fr', 'I_MS_LR.npy'),load(im, 'fr', 'I_PAN.npy'),numbers(im, 'FR', 'EXP')
    exp = interp23tap(ms)
    got = nr.noreference_metrics(exp, ms, pan, im)
    got |= dict(D_s_v1=nr.d_s_v1(exp, exp, pan, im), D_sR_intercept=nr.d_s_r(exp, pan, intercept=True))
    for k,v in got.items(): assert v.item()==pytest.approx(want[k], abs=1e-9), k
    low = nr.noreference_metrics(exp.float(), ms, pan, im)
    for k,v in low.items(): assert v.item()==pytest.approx(want[k], abs=1e-5), k

@needs_reference
def test_scc_has_several_meanings():
    want = json.loads((shared/'sensitivity.json').read_text('utf-8'))
    for im,key in (('WV2', 'WV2'), ('IKONOS', 'IK')):
        v2,_,zhou = want[key]['SCC variants GSA: v2 sobel-mag, v1 sobel-y, laplacian-Zhou global CC per band']
        x,y = (rf.cut(load(im, 'rr', n)) for n in ('fused_GSA.npy', 'I_GT.npy'))
        assert rf.scc(x, y).item()==pytest.approx(v2, rel=1e-7)
        assert rf.scc_laplacian(x, y).item()==pytest.approx(zhou, rel=1e-7)

@needs_reference
def test_conventions_that_move_the_numbers():
    want = json.loads((shared/'sensitivity.json').read_text('utf-8'))['WV2']
    x,y = load('WV2', 'rr', 'fused_GSA.npy'),load('WV2', 'rr', 'I_GT.npy')
    cases = {'GSA metrics uncut 256': (x, y), 'GSA cut dim_cut=11 (v1 toolbox)': (rf.cut(x, 11), rf.cut(y, 11)),
        'GSA cut 20:-20 (216)': (x[..., 20:-20, 20:-20], y[..., 20:-20, 20:-20])}
    for k,(a,b) in cases.items():
        got = dict(Q2n=rf.q2n(a, b), Qavg=rf.qavg(a, b), SAM=rf.sam(a, b), ERGAS=rf.ergas(a, b), SCC=rf.scc(a, b))
        for n,v in got.items(): assert v.item()==pytest.approx(want[k][n], abs=6e-6), (k, n)

# --- libraries ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('C,H,W', ((1, 64, 64), (2, 33, 47), (3, 50, 90), (4, 215, 70), (5, 32, 32), (8, 71, 40), (11, 45, 45), (16, 40, 64)))
def test_q2n_is_sewars_on_integers(C, H, W):
    y = smooth(1, C, H, W).round()
    x = noisy(y).round()
    assert rf.q2n(x, y).item()==pytest.approx(sewar.q2n(hwc(y), hwc(x)), abs=1e-12)
    assert rf.q2n(x, y, rounding=False).item()==pytest.approx(sewar.q2n(hwc(y), hwc(x)), abs=1e-12)
    z = noisy(smooth(1, C, H, W))
    assert rf.q2n(z, y, rounding=False).item()==pytest.approx(sewar.q2n(hwc(y), hwc(z)), abs=1e-12)
    if C>1: assert rf.q2n(z, y).item()!=pytest.approx(sewar.q2n(hwc(y), hwc(z)), abs=1e-9)

def test_q2n_of_black_and_flat_blocks():
    "The toolbox's rules for reference bands without deviation (divide by eps) and without mean (do not divide)."
    y = smooth(1, 3, 128, 96).round()
    x = noisy(y).round()
    y[:, 0, :32, :32] = 0
    y[:, 1, 32:64, :32] = 200
    y[:, :, 64:96, 32:64] = x[:, :, 64:96, 32:64] = 300
    y[:, :, 64:96, 64:] = 0
    x[:, 2, 64:96, 64:] = 1
    y[:, :2, 96:, :32],x[:, :2, 96:, :32] = 0,7
    for i in range(0, 128, 32):
        for j in range(0, 96, 32):
            a,b = (z[..., i:i+32, j:j+32] for z in (x, y))
            assert rf.q2n(a, b).item()==pytest.approx(sewar.q2n(hwc(b), hwc(a)), abs=1e-12), (i, j)

def test_libraries_agree():
    y = smooth(2, 4, 90, 70)
    x = noisy(y)
    kw = dict(data_range=2047., reduction='none')
    assert torch.allclose(rf.ssim(x, y, reflect=True), tm.structural_similarity_index_measure(x, y, **kw), atol=1e-12)
    smap = tm.structural_similarity_index_measure(x, y, return_full_image=True, **kw)[1]
    assert torch.allclose(rf.ssim(x, y), smap[..., 5:-5, 5:-5].mean((1, 2, 3)), atol=1e-12)
    assert torch.allclose(rf.ergas(x, y), tm.error_relative_global_dimensionless_synthesis(x, y, reduction='none'), rtol=1e-12)
    angle = tm.spectral_angle_mapper(x, y, reduction='none').rad2deg().mean((1, 2))
    assert torch.allclose(rf.sam(x, y), angle, rtol=1e-9)
    a,b = hwc(y[:1]),hwc(x[:1])
    for got,want in ((rf.psnr, sewar.psnr(a, b, MAX=2047)), (rf.ergas, sewar.ergas(a, b)), (rf.rmse, sewar.rmse(a, b))):
        assert got(x, y)[0].item()==pytest.approx(want, rel=1e-12)
    assert rf.sam(x, y)[0].item()==pytest.approx(math.degrees(sewar.sam(a, b)), rel=1e-9)

def test_libraries_that_do_not_agree():
    "Same names, other quantities (the reasons are on the page); if one of these starts to agree, the page is out of date."
    y = smooth(1, 4, 96, 96)
    x = noisy(y, 80)
    def far(a, b): return abs(float(a)/float(b)-1)>.01
    assert far(rf.qavg(x, y), tm.universal_image_quality_index(x, y))
    assert far(rf.qavg(x, y), sewar.uqi(hwc(y), hwc(x), ws=32))
    assert far(rf.scc(x, y), tm.spatial_correlation_coefficient(x, y))
    assert far(rf.rase(x, y), tm.relative_average_spectral_error(x, y))
    assert far(nr.d_lambda(x, y), tm.spectral_distortion_index(x, y))

# --- definitions, written out ------------------------------------------------------------------------------------------

def plain_q(a, b):
    s = np.cov(a.ravel(), b.ravel())
    return 4*s[0, 1]*a.mean()*b.mean()/((s[0, 0]+s[1, 1])*(a.mean()**2+b.mean()**2))

def windows(z, n, step): return z[0].unfold(1, n, step).unfold(2, n, step).flatten(1, 2).numpy()

@pytest.mark.parametrize('n,step', ((32, 1), (16, 1), (32, 32), (16, 16)))
def test_uqi_windows(n, step):
    z = smooth(1, 4, 64, 80 if step==1 else 64)[..., :48 if step==1 else 64, :]
    w = windows(z, n, step)
    if step==1: got = nr._q_bands(z, n, True)[0]
    else:
        q = nr.uqi_blocks(z, block=n)[0]
        got = torch.cat([q.diagonal(d) for d in (1, 2, 3)])
    want = [np.mean([plain_q(a, b) for a,b in zip(w[i], w[i+d])]) for d in (1, 2, 3) for i in range(4-d)]
    assert np.allclose(got, want, atol=1e-12)

def test_qavg_below_its_window():
    x,y = smooth(1, 2, 23, 40),smooth(1, 2, 23, 40, 3)
    a,b = windows(x, 23, 1),windows(y, 23, 1)
    assert rf.qavg(x, y).item()==pytest.approx(np.mean([plain_q(p, q) for i in range(2) for p,q in zip(a[i], b[i])]), abs=1e-12)

def test_sliding_pan_pairs():
    x,p = smooth(1, 3, 40, 50),smooth(1, 1, 40, 50, 5)
    want = [np.mean([plain_q(a, b) for a,b in zip(w, windows(p, 32, 1)[0])]) for w in windows(x, 32, 1)]
    assert np.allclose(nr._q_pan(x, p, 32, True)[0], want, atol=1e-12)

def test_scc_written_out():
    from scipy.ndimage import correlate
    x,y = smooth(1, 3, 40, 37),smooth(1, 3, 40, 37, 2)
    k = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])
    def g(z): return np.hypot(correlate(z, k, mode='constant'), correlate(z, k.T, mode='constant'))
    a,b = (np.stack([g(c) for c in z[0, :, 1:-1, 1:-1].numpy()]) for z in (x, y))
    assert rf.scc(x, y).item()==pytest.approx((a*b).sum()/np.sqrt((a*a).sum()*(b*b).sum()), abs=1e-12)

def test_hypercomplex_norms():
    g = torch.Generator().manual_seed(0)
    for n in (1, 2, 4, 8, 16):
        a,b = torch.randn(2, 40, n, generator=g, dtype=torch.float64)
        gap = (rf.hypercomplex(a, b).norm(dim=-1)-a.norm(dim=-1)*b.norm(dim=-1)).abs().max()
        assert (gap<1e-12) == (n<=8)
        own = rf.hypercomplex(a, rf._conj(a))
        assert torch.allclose(own[:, 0], a.square().sum(1)) and own[:, 1:].abs().max()<1e-12 if n>1 else True

def test_premix_protocol():
    y = smooth(2, 4, 48, 48)
    x = noisy(y, 200)*3+1
    got = rf.reference_metrics(x, y, protocol='premix')
    a,b = x/2047,y/2047
    kw = dict(data_range=(0., 1.), reduction='none')
    assert torch.allclose(got['SSIM'], tm.structural_similarity_index_measure(a, b, **kw), atol=1e-12)
    assert torch.allclose(got['PSNR'], tm.peak_signal_noise_ratio(a, b, dim=(1, 2, 3), **kw).to(a), atol=1e-4)
    assert torch.allclose(got['SAM'].mean(), tm.spectral_angle_mapper(a.clamp(0, 1), b), atol=1e-12)
    ms,pan = torch.nn.functional.avg_pool2d(y, 4),y.mean(1, keepdim=True)
    got = nr.noreference_metrics(x, ms, pan, 'IKONOS', 'premix')
    a,m,p = (z.numpy()/2047 for z in (x.clamp(0, 2047), ms, pan))
    low = torch.nn.functional.interpolate(pan/2047, (12, 12), mode='bicubic', align_corners=True).numpy()
    def q(a, b):
        s = np.cov(a.ravel(), b.ravel(), bias=True)
        return 4*s[0, 1]*a.mean()*b.mean()/((s[0, 0]+s[1, 1])*(a.mean()**2+b.mean()**2)+1e-8)
    for k in range(2):
        dl = np.mean([abs(q(a[k, i], a[k, j])-q(m[k, i], m[k, j])) for i in range(4) for j in range(4) if i!=j])
        ds = np.mean([abs(q(a[k, i], p[k, 0])-q(m[k, i], low[k, 0])) for i in range(4)])
        assert [got[n][k].item() for n in ('D_lambda', 'D_s', 'QNR')]==pytest.approx([dl, ds, (1-dl)*(1-ds)], abs=1e-12)

# --- properties --------------------------------------------------------------------------------------------------------

columns = 'Q2n Qavg SAM ERGAS SCC PSNR SSIM CC RMSE RASE'.split()
fr_columns = 'D_lambda D_s QNR D_lambda_K HQNR D_sR HQNR_R'.split()

def full(B=2, C=4, n=64, seed=0):
    hr = smooth(B, C, n, n, seed)
    pan = hr.mean(1, keepdim=True)+smooth(B, 1, n, n, seed+9)*.1
    ms = mtf(hr, 'none', down=True)
    return hr, ms, pan, interp23tap(ms)

def test_column_names():
    y = smooth(1, 4, 64, 64)
    hr,ms,pan,_ = full()
    assert list(rf.reference_metrics(y, y))==columns
    assert list(nr.noreference_metrics(hr, ms, pan, 'none'))==fr_columns

@pytest.mark.parametrize('H,W', ((64, 64), (57, 64), (101, 83), (75, 300)))
def test_batch_is_image_by_image(H, W):
    y = smooth(3, 3, H, W)
    x = noisy(y)
    got = rf.reference_metrics(x, y)
    for i in range(3):
        for k,v in rf.reference_metrics(x[i:i+1], y[i:i+1]).items(): assert torch.allclose(got[k][i], v[0], rtol=1e-12), k
    for f in (rf.psnr_bandmean, rf.scc_laplacian): assert torch.allclose(f(x, y)[:1], f(x[:1], y[:1]), rtol=1e-12)

@pytest.mark.parametrize('C', (2, 3, 8))
def test_batch_is_image_by_image_without_reference(C):
    hr,ms,pan,_ = full(3, C, 96)
    for protocol in ('toolbox', 'premix'):
        got = nr.noreference_metrics(noisy(hr), ms, pan, 'none', protocol)
        for i in range(3):
            one = nr.noreference_metrics(noisy(hr)[i:i+1], ms[i:i+1], pan[i:i+1], 'none', protocol)
            for k,v in one.items(): assert torch.allclose(got[k][i], v[0], atol=1e-12), k

def test_tiles_change_nothing(monkeypatch):
    "Small tiles, few images at a time, against the whole batch in one piece."
    y = smooth(3, 4, 160, 600)
    x,pan = noisy(y),y.mean(1, keepdim=True)
    def scores(): return [*rf.reference_metrics(x, y).values(), rf.ag(x), nr.d_s_r(x, pan), nr.d_lambda(x, y, sliding=True), nr.d_s(x, y, pan)]
    many = scores()
    def whole(f, *z, halo=0, step=1, join=sum): return join([f(*z)])
    for m in (rf, nr): monkeypatch.setattr(m, 'tiles', whole)
    for a,b in zip(many, scores()): assert torch.allclose(a, b, rtol=1e-11, atol=1e-13)

def test_tiles_cover_every_pixel_once():
    for H,W,halo,step in ((1000, 700, 0, 1), (1000, 700, 31, 1), (1024, 700, 0, 32), (77, 9000, 10, 1), (3000, 40, 31, 1)):
        z = torch.ones(2, 1, H, W)
        count = rf.tiles(lambda z: z[..., halo:, halo:].sum((2, 3)), z, halo=halo, step=step)
        assert torch.equal(count, torch.full((2, 1), float((H-halo)*(W-halo))))

def test_perfect_and_flat():
    best = dict(Q2n=1, Qavg=1, SAM=0, ERGAS=0, SCC=1, PSNR=math.inf, SSIM=1, CC=1, RMSE=0, RASE=0)
    y = smooth(1, 4, 64, 64)
    for dt in (torch.float64, torch.float32):
        for z in (y, torch.zeros_like(y), torch.full_like(y, 300), torch.full_like(y, 300.1)):
            z = z.to(dt)
            for k,v in rf.reference_metrics(z, z).items(): assert v.item()==pytest.approx(best[k], abs=1e-12 if dt==torch.float64 else 1e-6), (k, dt)
        for a,b in ((torch.full_like(y, 300), y), (y, torch.full_like(y, 300)), (y, torch.zeros_like(y)), (torch.zeros_like(y), y)):
            s = rf.reference_metrics(a.to(dt), b.to(dt))
            assert not any(v.isnan().any() for v in s.values()), s
            assert s['Q2n']<.2 and s['CC'].abs()<1e-6

def test_flat_without_reference():
    flat = [torch.full(s, 300.) for s in ((1, 4, 64, 64), (1, 4, 16, 16), (1, 1, 64, 64))]
    hr,ms,pan,exp = (z[:1].float() for z in full())
    for args in (flat, (hr, *flat[1:]), (flat[0], ms, pan), [0*z for z in flat]):
        for protocol in ('toolbox', 'premix'):
            assert all(v.isfinite().all() for v in nr.noreference_metrics(*args, 'none', protocol).values())
    for s in (True, False): assert nr.d_lambda(flat[0], exp, sliding=s).isfinite().all()

def test_invariances():
    y = smooth(2, 4, 64, 64)
    x = noisy(y)
    turn = [2, 0, 3, 1]
    for f in (rf.qavg, rf.sam, rf.ergas, rf.scc, rf.psnr, rf.ssim, rf.cc, rf.rmse):
        assert torch.allclose(f(x[:, turn], y[:, turn]), f(x, y), rtol=1e-10)
        assert torch.allclose(f(x.mT, y.mT), f(x, y), rtol=1e-10)
    for f in (rf.qavg, rf.sam, rf.scc, rf.ssim, rf.cc, rf.psnr): assert torch.allclose(f(x, y), f(y, x), rtol=1e-10)
    assert not torch.allclose(rf.q2n(x, y), rf.q2n(y, x), rtol=1e-6)
    for f in (rf.qavg, rf.sam, rf.ergas, rf.rase, rf.cc, rf.scc): assert torch.allclose(f(2*x, 2*y), f(x, y), rtol=1e-10)
    assert torch.allclose(rf.q2n(2*x, 2*y, rounding=False), rf.q2n(x, y, rounding=False), rtol=1e-10)
    assert torch.allclose(rf.ssim(2*x, 2*y, 2*2047), rf.ssim(x, y), rtol=1e-10)

def test_every_metric_falls_with_noise():
    y = smooth(1, 4, 64, 64)
    s = [rf.reference_metrics(noisy(y, a), y) for a in (5, 20, 80)]
    for k in columns:
        v = [t[k].item() for t in s]
        assert v==sorted(v, reverse=k not in ('SAM', 'ERGAS', 'RMSE', 'RASE')), k

def test_gradients():
    y = smooth(1, 4, 40, 40)
    pan = y.mean(1, keepdim=True)
    losses = dict(sam=lambda z: rf.sam(z, y), ergas=lambda z: rf.ergas(z, y), rmse=lambda z: rf.rmse(z, y), ssim=lambda z: rf.ssim(z, y),
        scc=lambda z: rf.scc(z, y), cc=lambda z: rf.cc(z, y), ag=rf.ag, qavg=lambda z: rf.qavg(z, y), q2n=lambda z: rf.q2n(z, y, rounding=False),
        qnr=lambda z: nr.qnr(z, y, pan), dk=lambda z: nr.d_lambda_k(z, y, 'none', rounding=False), dsr=lambda z: nr.d_s_r(z, pan),
        dl=lambda z: nr.d_lambda(z, y, sliding=True), whole=lambda z: nr.d_lambda(z, y, 'whole'))
    for dt in (torch.float64, torch.float32):
        y,pan = y.to(dt),pan.to(dt)
        for name,f in losses.items():
            for z in (y, noisy(y), torch.full_like(y, 300), torch.zeros_like(y)):
                z = z.clone().requires_grad_()
                g, = torch.autograd.grad(f(z).sum(), z)
                assert g.isfinite().all(), (name, dt)

def test_slopes_are_right():
    y = smooth(1, 2, 36, 33)
    x = noisy(y).requires_grad_()
    pan = y.mean(1, keepdim=True)
    for f in (rf.sam, rf.ergas, rf.ssim, rf.qavg, rf.scc, rf.cc, lambda x,y: rf.q2n(x, y, rounding=False), lambda x,y: nr.d_lambda(x, y, sliding=True),
            lambda x,y: nr.d_s_r(x, pan)):
        d = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=x.dtype)
        slope = (torch.autograd.grad(f(x, y).sum(), x)[0]*d).sum()
        with torch.no_grad(): diff = (f(x+1e-4*d, y)-f(x-1e-4*d, y)).sum()/2e-4
        assert slope.item()==pytest.approx(diff.item(), rel=1e-5)

def test_rounding_is_matlabs():
    t = torch.tensor([-7, -.5, .49999999999999994, .5, 1.5, 2.5, 65535.4, 1e6], dtype=torch.float64)
    assert rf._uint16(t.clone()).tolist()==[0, 0, 0, 1, 2, 3, 65535, 65535]
    t = torch.tensor([.49999997, .5, 2.5, 1023.5])
    assert rf._uint16(t.clone()).tolist()==[0, 1, 3, 1024]

def test_inputs_are_left_alone():
    hr,ms,pan,exp = full()
    keep = [z.clone() for z in (hr, exp, ms, pan)]
    rf.reference_metrics(exp, hr, protocol='uncut'), nr.noreference_metrics(exp, ms, pan, 'none'), rf.q2n(exp, hr)
    assert all(torch.equal(a, b) for a,b in zip(keep, (hr, exp, ms, pan)))

def test_integers_are_welcome():
    hr,ms,pan,exp = full()
    a = rf.reference_metrics(exp, hr.round().to(torch.int32))
    b = rf.reference_metrics(exp, hr.round())
    assert all(torch.equal(a[k], b[k]) for k in a)
    c = nr.noreference_metrics(hr.round().int(), ms.round().int(), pan.round().int(), 'none')
    d = nr.noreference_metrics(hr.round(), ms.round(), pan.round(), 'none')
    assert all(torch.equal(c[k], d[k]) for k in c)

def test_errors():
    y = smooth(1, 4, 64, 64)
    for f,text in ((lambda: rf.reference_metrics(y[..., :56, :], y[..., :56, :]), 'need 16'), (lambda: rf.reference_metrics(y, y[:, :3]), 'two equal'),
            (lambda: rf.reference_metrics(y*math.nan, y), 'NaN'), (lambda: rf.reference_metrics(y, y, protocol='cropped'), 'protocol'),
            (lambda: nr.uqi_blocks(y[..., :31]), 'one block')):
        with pytest.raises(ValueError, match=text): f()
    hr,ms,pan,exp = full()
    for f,text in ((lambda: nr.noreference_metrics(hr, ms, pan[..., :60], 'none'), 'do not fit'), (lambda: nr.noreference_metrics(hr[:1], ms, pan, 'none'), 'does not fit'),
            (lambda: nr.noreference_metrics(hr, ms, pan/0, 'none'), 'infinity'), (lambda: nr.noreference_metrics(hr, ms, pan, 'sputnik'), 'unknown sensor')):
        with pytest.raises(ValueError, match=text): f()

def test_d_s_r_is_blind_to_substitution():
    "GSA-like fusion puts PAN into the span of its bands, whatever it does to the colours."
    hr,ms,pan,exp = full(1)
    A = torch.cat([exp, torch.ones_like(pan)], 1).flatten(2).mT
    I = (A @ torch.linalg.lstsq(A, pan.flatten(2).mT).solution).mT.reshape(pan.shape)
    z = I-I.mean()
    x = exp + (z*exp).mean((2, 3), keepdim=True)/(z*z).mean()*(pan-I)
    assert nr.d_s_r(x, pan, intercept=True)<1e-12<1e-3<nr.d_s_r(hr, pan, intercept=True)
