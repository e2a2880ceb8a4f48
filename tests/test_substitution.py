"The methods of substitution.ipynb against the arrays of the MATLAB toolbox, and at their limits."
import numpy as np, pytest, torch
from functools import partial
from scipy.optimize import nnls as scipy_nnls
from pansharp_nb.classical.injection import clusters
from pansharp_nb.classical.injection import nnls
from pansharp_nb.classical.substitution import c_gsa, methods, papers
from pansharp_nb.data.degrade import interp23tap, lp_gauss
from pansharp_nb.data.sensors import sensor
from conftest import load

names = list(methods)
one_name = pytest.mark.parametrize('name', names)
both_types = pytest.mark.parametrize('dtype', [torch.float64, torch.float32])

def toolbox(d, dtype=torch.float64):
    "Input of the toolbox, and the methods with its k-means labels."
    labels = torch.from_numpy(np.load(d/'kmeans_labels_5.npy').astype(int))[None]
    fs = dict(methods) | {'C-GSA': partial(c_gsa, labels=labels)}
    return load(d/'I_MS_LR.npy', dtype), load(d/'I_PAN.npy', dtype), fs

def images(C=4, h=21, w=18, r=4, B=1, seed=0):
    "Bands and PAN that share structure, digital numbers, float64."
    g = torch.Generator().manual_seed(seed)
    def noise(*s): return torch.randn(s, generator=g, dtype=torch.float64)
    base = interp23tap(lp_gauss(noise(B, 1, h, w)), r)
    base = base/base.abs().amax((-2, -1), keepdim=True)
    pan = 600 + 200*base + 15*noise(B, 1, h*r, w*r)
    slope = 100 + 100*torch.rand(C, 1, 1, generator=g)
    ms = 500 + 40*torch.arange(C)[:, None, None] + slope*base[..., r//2::r, r//2::r] + 30*noise(B, C, h, w)
    return ms.clamp_min(200), pan.clamp_min(200)

@pytest.mark.parametrize('image', ['WV2', 'IKONOS'])
@pytest.mark.parametrize('scale', ['rr', 'fr'])
@one_name
def test_toolbox(reference, image, scale, name):
    "The arrays are float32, input too: half a step (6e-5) goes in. BDSD's normal equations magnify it tenfold."
    ms,pan,fs = toolbox(reference/image/scale)
    x = fs[name](ms, pan, image)
    want = load(reference/image/scale/'crop64'/f'{name}.npy')
    assert x.dtype==torch.float64 and x.shape==(1, ms.shape[1], *pan.shape[-2:])
    assert (x[..., :64, :64]-want).abs().max() < (1e-2 if name=='BDSD' else 2e-3)

@pytest.mark.parametrize('image', ['WV2', 'IKONOS'])
@pytest.mark.parametrize('name', ['GSA', 'BDSD-PC', 'BT-H'])
def test_toolbox_whole_image(reference, image, name):
    ms,pan,fs = toolbox(reference/image/'rr')
    assert (fs[name](ms, pan, image)-load(reference/image/'rr'/f'fused_{name}.npy')).abs().max() < 2e-3

@pytest.mark.parametrize('image', ['WV2', 'IKONOS'])
@pytest.mark.parametrize('scale', ['rr', 'fr'])
@one_name
def test_single_precision(reference, image, scale, name):
    """A float32 step at 2047 is 1.2e-4; a fused pixel sums up to a hundred products of that size, and gains carry
    relative errors of some 1e-6: 5e-3. BDSD adds small differences of large terms: 2e-2. Where the ringing of EXP takes
    the intensity near zero, Brovey divides by nothing: such pixels (there are a few in WV2) do not count."""
    ms,pan,fs = toolbox(reference/image/scale, torch.float32)
    x = fs[name](ms, pan, image)
    assert x.dtype==torch.float32
    gap = (x-fs[name](ms.double(), pan.double(), image)).abs()
    if name=='Brovey':
        bright = interp23tap(ms).mean(1, keepdim=True) > 50
        assert bright.double().mean() > .999
        gap = gap*bright
    assert gap.max() < (2e-2 if name=='BDSD' else 5e-3)

def test_names():
    assert list(papers)==names
    assert all(any(c.isdigit() for c in p) for p in papers.values())

@one_name
def test_batch(name):
    ms,pan = images(B=3)
    ms,pan = ms*torch.tensor([1., 2, .5]).view(3, 1, 1, 1),pan*torch.tensor([1., .7, 3]).view(3, 1, 1, 1)
    x = methods[name](ms, pan, 'IKONOS')
    alone = torch.cat([methods[name](m[None], p[None], 'IKONOS') for m,p in zip(ms, pan)])
    assert (x-alone).abs().max() < 1e-6

@one_name
@pytest.mark.parametrize('C,r', [(3, 4), (4, 2), (5, 4), (7, 4), (8, 4), (10, 2)])
@both_types
def test_bands_ratios_odd_sizes(name, C, r, dtype):
    ms,pan = [x.to(dtype) for x in images(C, 21, 17, r)]
    x = methods[name](ms, pan, 'generic')
    M = interp23tap(ms, r)
    assert x.dtype==dtype and x.shape==M.shape and x.isfinite().all()
    assert 1 < (x-M).std() < 1000

@one_name
def test_inputs_are_left_alone(name):
    ms,pan = images(4, 20, 20)
    ms,pan = ms.mT,pan.mT
    m,p = ms.clone(),pan.clone()
    x = methods[name](ms, pan, 'QB')
    assert (ms==m).all() and (pan==p).all()
    assert (x-methods[name](m.contiguous(), p.contiguous(), 'QB')).abs().max() < 1e-8

@one_name
def test_ratio_one_and_autograd(name):
    "Results overwrite EXP in place: not where EXP is the input itself, nor where a gradient is wanted."
    ms,pan = images(4, 16, 16, r=1)
    m = ms.clone()
    methods[name](ms, pan, 'generic')
    assert (ms==m).all()
    ms,pan = [x.requires_grad_() for x in images(4, 16, 16)]
    labels = torch.ones(1, 64, 64, dtype=int)
    x = (partial(c_gsa, labels=labels) if name=='C-GSA' else methods[name])(ms, pan, 'generic')
    x[..., 20:40, 20:40].square().sum().backward()
    assert all(v.grad.isfinite().all() and v.grad.abs().max()>0 for v in (ms, pan))

@one_name
@both_types
@pytest.mark.parametrize('what', ['both', 'pan', 'ms', 'zero', 'one band', 'twins'])
def test_flat_images(name, dtype, what):
    ms,pan = [x.to(dtype) for x in images(5)]
    if what in ('both', 'ms'): ms = torch.full_like(ms, 321)
    if what in ('both', 'pan'): pan = torch.full_like(pan, 777)
    if what=='zero': ms,pan = 0*ms,0*pan
    if what=='one band': ms[:, 2] = 321
    if what=='twins': ms[:, 1] = ms[:, 0]
    x = methods[name](ms, pan, 'generic')
    assert x.isfinite().all()
    M = interp23tap(ms, 4)
    assert (x-M).abs().max() < {'both': 2, 'zero': 1e-6}.get(what, 5000)
    if what=='twins' and name!='C-GSA': assert (x[:, 0]-x[:, 1]).abs().max() < 1

@pytest.mark.parametrize('name', ['Brovey', 'IHS', 'PCA', 'GS', 'GSA', 'C-GSA', 'BDSD', 'BDSD-PC', 'PRACS'])
def test_band_order(name):
    ms,pan = images()
    perm,cam = [3, 1, 0, 2],sensor('QB')
    turned = cam.select([cam.bands[i] for i in perm])
    labels = clusters(interp23tap(ms))
    f = partial(c_gsa, labels=labels) if name=='C-GSA' else methods[name]
    assert (f(ms[:, perm], pan, turned)-f(ms, pan, cam)[:, perm]).abs().max() < 1e-6

@pytest.mark.parametrize('K', [2, 5, 9, 17])
def test_nnls(K):
    "Columns from independent to nearly parallel, of very different length."
    rng = np.random.default_rng(K)
    for near in (1, .1, .01):
        H = (near*rng.normal(size=(12, 200, K)) + rng.normal(size=(12, 200, 1)) + 2)*rng.uniform(.1, 1000, (12, 1, K))
        y = (H @ rng.normal(size=(12, K, 1)))[..., 0] + rng.normal(size=(12, 200))
        want = np.stack([scipy_nnls(a, b)[0] for a,b in zip(H, y)])
        A,b = torch.from_numpy(H.swapaxes(1, 2) @ H),torch.from_numpy(np.einsum('nik,ni->nk', H, y))
        got = nnls(A, b).numpy()
        assert (got>=0).all() and ((got>0)==(want>0)).all()
        assert abs(got-want).max() < 1e-7*abs(want).max()

def test_nnls_degenerate():
    "Copies of a column, a zero column and a target out of reach: finite, not negative, as good a fit as SciPy's."
    rng = np.random.default_rng(0)
    H = rng.random((50, 6))
    H[:, 3],H[:, 4] = H[:, 0],0
    for y in (H @ rng.normal(size=6), -np.ones(50), np.zeros(50)):
        got = nnls(torch.from_numpy(H.T @ H)[None], torch.from_numpy(H.T @ y)[None])[0].numpy()
        assert np.isfinite(got).all() and (got>=0).all()
        assert abs(np.linalg.norm(H @ got - y) - scipy_nnls(H, y)[1]) < 1e-9

def test_c_gsa_labels():
    "k-means is repeatable, its seed and its k matter, and labels may start anywhere."
    ms,pan = images(4, 32, 32)
    x = c_gsa(ms, pan)
    assert (c_gsa(ms, pan)==x).all()
    assert (c_gsa(ms, pan, k=2)-x).abs().max() > .01
    labels = clusters(interp23tap(ms))
    assert (c_gsa(ms, pan, labels=labels)-x).abs().max() < 1e-9
    assert (c_gsa(ms, pan, labels=labels+1)-x).abs().max() < 1e-9

@one_name
@pytest.mark.parametrize('fault,says', [('shape', 'do not fit'), ('type', 'both float'), ('integers', 'both float'),
    ('nan', 'fill those pixels'), ('ratio', 'power of two')])
def test_door(name, fault, says):
    ms,pan = images(4, 16, 16)
    if fault=='shape': pan = pan[..., 1:]
    if fault=='type': pan = pan.float()
    if fault=='integers': ms,pan = ms.int(),pan.int()
    if fault=='nan': pan[0, 0, 3, 3] = torch.nan
    if fault=='ratio': pan = pan[..., :48, :48]
    with pytest.raises(ValueError, match=says): methods[name](ms, pan, 'IKONOS')

def test_c_gsa_wants_labels_at_pan_size():
    ms,pan = images(4, 16, 16)
    with pytest.raises(ValueError, match='one a PAN pixel'): c_gsa(ms, pan, labels=torch.ones(1, 16, 16, dtype=int))
