"The methods of variational.ipynb against the MATLAB toolbox's arrays, plain loops and scenes with a known answer."
import inspect, time
import numpy as np, pytest, torch
from torch.nn.functional import interpolate
from pansharp_nb.classical import variational as v
from pansharp_nb.classical.variational import cnmf, cnmf_steps, coarse, methods, omp, papers, sr_d, tv, tv_parameters, tv_sets
from pansharp_nb.data.degrade import interp23tap, mtf
from pansharp_nb.data.sensors import sensor
from conftest import load

scenes_ = [(n, k) for n in ('WV2', 'IKONOS') for k in ('rr', 'fr')]

def given(reference, name, kind, dtype=torch.float64):
    d = reference/name/kind
    return [load(d/f'{f}.npy', dtype) for f in ('I_MS_LR', 'I_PAN')]

def mixed(C=4, r=4, h=16, w=16, B=1, k=3, seed=0, name='generic', dtype=torch.float64):
    "A scene without noise: every pixel mixes k spectra, PAN mixes the bands."
    g = torch.Generator().manual_seed(seed)
    def noise(s): return interpolate(torch.randn(B, k, r*h//s+1, r*w//s+1, generator=g), (r*h, r*w), mode='nearest')
    a = (2*sum(map(noise, (2, 4, 8, 16)))).softmax(1).double()
    spectra = torch.linspace(150, 800, k)[:, None]*(.7 + .6*torch.rand(k, C, generator=g))
    x = torch.einsum('kc,bkij->bcij', spectra.double(), a)
    mix = torch.rand(C, generator=g).double()
    pan = torch.einsum('c,bcij->bij', mix/mix.sum(), x)[:, None]
    return [t.to(dtype) for t in (mtf(x, sensor(name, C), r, down=True), pan, x)]

def rmse(x, y): return (x-y).square().mean().sqrt().item()

def call(method, ms, pan, name='IKONOS'):
    own = dict(weights=(1/ms.shape[1],)*ms.shape[1], alpha=1, lam=.5, iters=10) if method=='TV' and name=='generic' else {}
    return methods[method](ms, pan, name, **own)

@pytest.mark.parametrize('name,kind', scenes_)
@pytest.mark.parametrize('method', ['SR-D', 'TV'])
def test_toolbox(reference, name, kind, method):
    "Only the float32 storage of the reference arrays (half a step is 1.2e-4 above 1024 DN) is left."
    x = methods[method](*given(reference, name, kind), name)
    assert (x[..., :64, :64]-load(reference/name/kind/'crop64'/f'{method}.npy')).abs().max() < 5e-4

@pytest.mark.parametrize('name', ['WV2', 'IKONOS'])
@pytest.mark.parametrize('method', methods)
def test_float32(reference, name, method):
    "Some tens of rounding steps (6e-5 DN at 1000 DN) add up in hundreds of updates."
    x,y = (methods[method](*given(reference, name, 'rr', t), name) for t in (torch.float32, torch.float64))
    assert x.dtype==torch.float32
    assert (x-y).abs().max() < .03

def scores(x, gt):
    "ERGAS and PSNR where the toolbox takes them."
    x,gt = (t[..., 20:235, 20:235] for t in (x, gt))
    mse = (x-gt).square().mean((0, 2, 3))
    return 25*(mse/gt.mean((0, 2, 3))**2).mean().sqrt().item(), -10*mse.mean().log10().item()

@pytest.mark.parametrize('name', ['WV2', 'IKONOS'])
@pytest.mark.parametrize('method', methods)
def test_beats_interpolation_on_real_scenes(reference, name, method):
    ms,pan = given(reference, name, 'rr')
    gt = load(reference/name/'rr/I_GT.npy')
    (e0,p0),(e1,p1) = (scores(x, gt) for x in (interp23tap(ms), methods[method](ms, pan, name)))
    assert e1 < .7*e0 and p1 > p0+3

@pytest.mark.parametrize('name', ['WV2', 'IKONOS'])
def test_cnmf_is_near_the_best_of_the_toolbox(reference, name):
    "No golden numbers exist; an implementation that unmixes wrongly falls behind GSA."
    ms,pan = given(reference, name, 'rr')
    gt = load(reference/name/'rr/I_GT.npy')
    assert scores(cnmf(ms, pan, name), gt)[0] < scores(load(reference/name/'rr/fused_GSA.npy'), gt)[0]

@pytest.mark.parametrize('name', ['WV2', 'IKONOS'])
def test_cnmf_does_not_hang_on_its_settings(reference, name):
    "Half or double of anything moves ERGAS by a few percent."
    ms,pan = given(reference, name, 'rr')
    gt = load(reference/name/'rr/I_GT.npy')
    want = scores(cnmf(ms, pan, name), gt)[0]
    others = dict(rounds=(2, 6), steps=(15, 60), start=(50, 200), delta=(.5, 2), p=[ms.shape[1]])
    got = {(k, v): scores(cnmf(ms, pan, name, **{k: v}), gt)[0] for k,vs in others.items() for v in vs}
    assert all(abs(g/want-1)<.04 for g in got.values()), (want, got)

def loop_omp(y, D, first, K):
    "One signal, one band after the other, no shortcuts."
    idx,res = [first],None
    for k in range(K):
        if k: idx.append(int(np.argmax(abs(np.einsum('nct,ct->n', D, res)))))
        A = D[idx]
        a = []
        for c in range(y.shape[0]):
            G = A[:, c] @ A[:, c].T
            a.append(np.linalg.lstsq(A[:, c].T, y[c], rcond=None)[0] if np.linalg.det(G)>.1 else np.zeros(len(idx)))
        a = np.stack(a)
        res = y - np.einsum('kct,ck->ct', A, a)
    return idx, a

def test_omp_is_the_plain_loop():
    g = torch.Generator().manual_seed(1)
    D = torch.randn(2, 60, 3, 49, generator=g, dtype=torch.float64)*20
    y = D[:, :25].roll(1, 1) + 30*torch.randn(2, 25, 3, 49, generator=g, dtype=torch.float64)
    idx,a = omp(y, D, torch.arange(25), 6)
    for b in range(2):
        for n in range(25):
            i,w = loop_omp(y[b, n].numpy(), D[b].numpy(), n, 6)
            assert idx[b, n].tolist()==i
            np.testing.assert_allclose(a[b, n], w, atol=1e-9)

def test_omp_skips_what_hardly_spans():
    "A band whose atoms are nearly nothing gets zeros, the others do not."
    D = torch.randn(1, 30, 2, 49, dtype=torch.float64)
    D[:, :, 1] *= 1e-3
    _,a = omp(D[:, 5:6], D, torch.tensor([7]), 1)
    assert a[0, 0, 1, 0]==0 and a[0, 0, 0, 0]!=0

def test_sr_d_covers_every_pixel():
    "At sizes where the last patch has to be moved back to the border and at those where it does not."
    for h,w in ((7, 7), (8, 9), (10, 13), (15, 11)):
        i,j = v.patch_grid(h, w, 7, 3)
        count = torch.zeros(1, 1, h, w)
        v.add_patches_(count, torch.ones(1, len(i), 1, 7, 7), i, j)
        assert count.amin()>=1 and count.sum()==49*len(i)

@pytest.mark.parametrize('method', methods)
@pytest.mark.parametrize('r,h,w', [(4, 9, 13), (2, 15, 11), (4, 25, 8)])
def test_odd_sizes_and_batches(method, r, h, w):
    ms,pan,x = mixed(r=r, h=h, w=w, B=3, seed=5)
    both = call(method, ms, pan, 'generic')
    assert both.shape==x.shape and both.isfinite().all()
    alone = torch.cat([call(method, ms[b:b+1], pan[b:b+1], 'generic') for b in range(3)])
    assert (alone-both).abs().max() < 1e-6

@pytest.mark.parametrize('method', methods)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('m,p', [(300., 250.), (333.3, 777.7), (0., 0.), (0., 5.), (1e-3, 2047.)])
def test_flat_images(method, dtype, m, p):
    ms,pan = torch.full((2, 4, 9, 11), m, dtype=dtype),torch.full((2, 1, 36, 44), p, dtype=dtype)
    x = call(method, ms, pan)
    assert x.isfinite().all()
    if method!='TV': assert (x-m).abs().max() < 1e-3*max(m, 1)

def test_flat_pan_adds_nothing():
    ms = torch.rand(1, 4, 9, 11, dtype=torch.float64)*500
    pan = torch.full((1, 1, 36, 44), 333.3, dtype=torch.float64)
    assert (sr_d(ms, pan, 'IKONOS')-interp23tap(ms)).abs().max() < 1e-6
    for f in (tv, cnmf): assert f(ms, pan, 'IKONOS').isfinite().all()

@pytest.mark.parametrize('method', methods)
def test_doors(method):
    ms,pan,_ = mixed(name='IKONOS')
    hole = pan.clone()
    hole[..., 3, 3] = torch.nan
    bad = [(ms, hole, 'fill those pixels'), (ms, pan[..., :-1], 'do not fit')]
    bad += [(ms.float(), pan, 'make both'), (ms.int(), pan.int(), 'make both')]
    for m,p,say in bad:
        with pytest.raises(ValueError, match=say) as e: methods[method](m, p, 'IKONOS')
        assert '\n' not in str(e.value)
    with pytest.raises(ValueError, match='IKONOS has the bands'): methods[method](ms.repeat(1, 2, 1, 1)[:, :5], pan, 'IKONOS')

def test_tv_parameters_follow_the_names():
    "Bands in another order take their own weights: the answer is the same, in that order."
    ms,pan,_ = mixed(name='IKONOS')
    s = sensor('IKONOS').select(('NIR', 'R', 'G', 'B'))
    assert (tv(ms.flip(1), pan, s).flip(1)-tv(ms, pan, 'IKONOS')).abs().max() < 1e-9
    for n in (3, 4):
        w = tv_parameters('WV2', n)['weights']
        full = dict(zip(sensor('WV3').bands, tv_sets['WV3']['weights']))
        part = [full[b] for b in sensor('WV2', n).bands]
        np.testing.assert_allclose(w, np.array(part)/sum(part)*sum(full.values()), rtol=1e-12)

def test_four_of_eight_bands_still_explain_pan():
    "With the table's raw weights half of PAN would be missing and every band would go up."
    ms,pan,x = mixed(name='WV2', seed=3)
    w = tv_parameters('WV2', 4)['weights']
    pan = torch.einsum('c,bcij->bij', torch.tensor(w).double(), x)[:, None]
    y = tv(ms, pan, 'WV2')
    assert rmse(y, x) < .8*rmse(interp23tap(ms), x)
    assert (y.mean((2, 3))/x.mean((2, 3))-1).abs().max() < .02

def test_the_eight_band_slip_is_where_it_was_and_nowhere_else():
    "Bands in another order: the corrected method does not care, the toolbox's does; with 3, 5 or 10 bands there is no slip to keep."
    for C in (3, 4, 5, 8, 10):
        ms,pan,_ = mixed(C=C, seed=C)
        kw = dict(weights=(1/C,)*C, alpha=1., lam=50., iters=15)
        def turned(flag):
            a,b = (tv(t, pan, 'generic', **kw, toolbox=flag) for t in (ms, ms.roll(2, 1)))
            return (a.roll(2, 1)-b).abs().max()
        assert turned(False) < 1e-8
        assert turned(True) > .1 if C==8 else turned(True) < 1e-8

@pytest.mark.parametrize('name', ['QB', 'WV-2', 'GF2', 'generic'])
def test_tv_says_what_to_pass(name):
    ms,pan,_ = mixed()
    if name=='WV-2': assert tv(ms, pan, name).isfinite().all()
    else:
        with pytest.raises(ValueError, match='pass weights, alpha, lam, iters'): tv(ms, pan, name)
        with pytest.raises(ValueError, match='pass lam'): tv(ms, pan, name, weights=(.25,)*4, alpha=1, iters=3)

@pytest.mark.parametrize('C', range(3, 11))
@pytest.mark.parametrize('r', [2, 4])
def test_cnmf_unmixes(C, r):
    "Two materials that differ in brightness: PAN and the sum to one fix every abundance, so little of interpolation's error may stay."
    ms,pan,x = mixed(C=C, r=r, seed=C, h=24, w=20, k=2)
    y = cnmf(ms, pan, 'generic', p=2)
    assert rmse(y, x) < .15*rmse(interp23tap(ms, r), x)
    assert y.amin()>=0
    assert (cnmf(ms, pan, 'generic', p=2)==y).all()

@pytest.mark.parametrize('seed', range(4))
def test_cnmf_three_materials(seed):
    "PAN alone cannot tell them apart, PAN and MS together mostly can."
    ms,pan,x = mixed(seed=seed, h=24, w=20)
    for p in (3, None): assert rmse(cnmf(ms, pan, 'generic', p=p), x) < .75*rmse(interp23tap(ms), x)

@pytest.mark.parametrize('seed', range(4))
def test_cnmf_fit_falls(seed):
    "MS turns never raise MS's misfit; PAN turns hardly PAN's (sums to one count, too); both fall well below interpolation's."
    ms,pan,x = mixed(seed=seed)
    R = v.response(ms.flatten(2), coarse(pan, .3).flatten(2))[0, 0]
    def fit(x): return rmse(coarse(x, .3), ms), rmse(torch.einsum('c,bcij->bij', R, x)[:, None], pan)
    m,p = np.array([fit(x) for x in cnmf_steps(ms, pan, 'generic', 3, rounds=6)]).T
    assert (m[1::2]<=m[::2]).all() and (p[2::2]<=1.02*p[1:-1:2]).all()
    both = np.hypot(m, p)[1::2]
    assert (both[1:]<=1.005*both[:-1]).all() and both[-1]<both[0]
    assert both[-1] < .4*np.hypot(*fit(interp23tap(ms)))

@pytest.mark.parametrize('delta', [.3, 1, 3])
def test_updates_never_raise_the_misfit(delta):
    g = torch.Generator().manual_seed(2)
    E,A,Y = (torch.rand(2, *n, generator=g, dtype=torch.float64) for n in ((5, 4), (4, 700), (5, 700)))
    def misfit(E, A): return (Y-E@A).square().sum((1, 2)), delta**2*(1-A.sum(1)).square().sum(1)
    a = torch.stack([sum(misfit(E, v.abundances(A, E, Y, n, delta))) for n in range(9)])
    e = torch.stack([misfit(v.endmembers(E, A, Y, n), A)[0] for n in range(9)])
    assert (a.diff(dim=0)<0).all() and (e.diff(dim=0)<0).all()

def test_the_response_is_found():
    "When MS and PAN are seen alike and the bands are independent."
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 4, 900, generator=g, dtype=torch.float64)
    R = torch.tensor([[.1, .2, .3, .4], [.5, 0, .25, .25]], dtype=torch.float64)[:, None]
    assert (v.response(x, R @ x)-R).abs().max() < 1e-9
    assert (v.response(x, (R-.3) @ x)>=0).all()

@pytest.mark.parametrize('method', methods)
def test_seconds(method):
    "512 x 512 x 4 within 10 s of one core."
    ms,pan,_ = mixed(h=128, w=128, name='IKONOS')
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    t = time.process_time()
    call(method, ms, pan)
    t = time.process_time()-t
    torch.set_num_threads(n)
    assert t < 10

def test_names():
    assert list(methods)==list(papers)==['SR-D', 'TV', 'CNMF']
    for f in methods.values(): assert list(inspect.signature(f).parameters)[:3]==['ms', 'pan', 'sensor']
