"The methods of multiresolution.ipynb against the arrays of the MATLAB toolbox."
import numpy as np, pytest, torch
from torch.nn.functional import avg_pool2d
from pansharp_nb.classical.multiresolution import blur, glp, methods, papers
from pansharp_nb.data.degrade import mtf
from conftest import load

old = ['AWLP', 'MTF-GLP', 'MTF-GLP-HPM', 'MTF-GLP-CBD'] # in both versions of the toolbox
scenes_ = [(n, k) for n in ('WV2', 'IKONOS') for k in ('rr', 'fr')]

def given(reference, name, kind, dtype=torch.float64):
    d = reference/name/kind
    labels = torch.from_numpy(np.load(d/'kmeans_labels_5.npy'))[None]
    return load(d/'I_MS_LR.npy', dtype), load(d/'I_PAN.npy', dtype), dict(labels=labels)

def fuse(method, *images, kw): return methods[method](*images, **(kw if method=='C-MTF-GLP-CBD' else {}))

def some(r=4, C=4, h=25, w=29, B=1, seed=0, dtype=torch.float64):
    "A small textured scene with MS sides of any parity."
    g = torch.Generator().manual_seed(seed)
    x = avg_pool2d(torch.rand(B, C+1, r*h+2, r*w+2, generator=g, dtype=torch.float64), 3, 1)
    gt = 100 + 1000*x[:, :1] + 400*x[:, 1:]
    return [t.to(dtype) for t in (mtf(gt, 'generic', r, down=True), gt.mean(1, keepdim=True), gt)]

@pytest.mark.parametrize('name,kind', scenes_)
@pytest.mark.parametrize('method', [m for m in methods if m!='EXP'])
def test_toolbox(reference, name, kind, method):
    "Float64: only the float32 storage of the reference arrays (half a step is 1.2e-4 above 1024 DN) is left."
    ms,pan,kw = given(reference, name, kind)
    want = load(reference/name/kind/'crop64'/f'{method}.npy')
    assert (fuse(method, ms, pan, name, kw=kw)[..., :64, :64]-want).abs().max() < 5e-4

@pytest.mark.parametrize('name', ['WV2', 'IKONOS'])
def test_toolbox_exp(reference, name):
    ms,pan,_ = given(reference, name, 'rr')
    assert (methods['EXP'](ms, pan, name)-load(reference/name/'rr/I_MS.npy')).abs().max() < 5e-4

@pytest.mark.parametrize('name', ['WV2', 'IKONOS'])
@pytest.mark.parametrize('method', ['MTF-GLP-FS', 'MTF-GLP-HPM-R'])
def test_toolbox_whole_image(reference, name, method):
    ms,pan,kw = given(reference, name, 'rr')
    want = load(reference/name/'rr'/f'fused_{method}.npy')
    assert (fuse(method, ms, pan, name, kw=kw)-want).abs().max() < 5e-4

@pytest.mark.parametrize('name,kind', scenes_)
@pytest.mark.parametrize('method', old)
def test_toolbox_2015(reference, name, kind, method):
    "And the two versions are told apart."
    ms,pan,_ = given(reference, name, kind)
    want = load(reference/name/kind/'crop64'/f'{method}-v1.npy')
    assert (methods[method](ms, pan, name, v1=True)[..., :64, :64]-want).abs().max() < 5e-4
    assert (methods[method](ms, pan, name)[..., :64, :64]-want).abs().max() > .1

@pytest.mark.parametrize('name,kind', scenes_)
@pytest.mark.parametrize('method', methods)
def test_float32(reference, name, kind, method):
    """Rounding is 6e-5 DN a step at 1024 DN and some tens of steps add up: 5e-3. Modulation divides by `E_L`, which crosses zero in
    a few dark pixels of WV2: they may be farther off, a pole is a pole in any precision. One pixel in 20000 at most."""
    ms,pan,kw = given(reference, name, kind)
    x = fuse(method, ms, pan, name, kw=kw)
    y = fuse(method, ms.float(), pan.float(), name, kw=kw)
    assert y.dtype==torch.float32
    off = (x-y).abs()
    assert (off>5e-3).double().mean() <= 5e-5
    assert (off <= 5e-3 + 1e-3*x.abs()).all()

@pytest.mark.parametrize('method', methods)
def test_batch_is_singles(method):
    ms,pan,_ = some(B=3)
    x = methods[method](ms, pan, 'QB')
    for i in range(3):
        one = methods[method](ms[i:i+1], pan[i:i+1], 'QB')
        assert (x[i:i+1]-one).abs().max() < 1e-7

@pytest.mark.parametrize('method', methods)
@pytest.mark.parametrize('r', [2, 4, 8])
@pytest.mark.parametrize('C', [3, 7, 10])
def test_ratios_bands_odd_sizes(method, r, C):
    "25 x 29 px of MS; sharper than EXP in every band."
    ms,pan,_ = some(r, C, dtype=torch.float32)
    x = methods[method](ms, pan, 'generic')
    assert x.shape==(1, C, 25*r, 29*r) and x.dtype==torch.float32 and x.isfinite().all()
    def rough(v): return (v[..., 1:]-v[..., :-1]).square().mean((0, 2, 3))
    if method!='EXP': assert (rough(x) > 1.1*rough(methods['EXP'](ms, pan, None))).all()

@pytest.mark.parametrize('method', methods)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('value', [0., .1, 700.])
def test_constant_image(method, dtype, value):
    "Nothing to inject: the constant comes back, up to the missing 0.15 % of the MTF kernels, which the toolbox leaves out."
    x = methods[method](torch.full((2, 4, 16, 17), value, dtype=dtype), torch.full((2, 1, 64, 68), value, dtype=dtype), 'QB')
    assert ((x-value).abs() <= .002*value+1e-9).all()

@pytest.mark.parametrize('method', methods)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_flat_pan(method, dtype):
    "A PAN that shows nothing leaves the bands alone, again up to 0.2 %."
    ms = some(h=24, w=24, dtype=dtype)[0]
    x = methods[method](ms, torch.full((1, 1, 96, 96), 321.7, dtype=dtype), 'QB')
    M = methods['EXP'](ms, torch.zeros(1, 1, 96, 96, dtype=dtype), None)
    if method=='Indusion': assert (x-M).abs().mean() < .2*M.std() # another upsampler
    else: assert ((x-M).abs() <= .002*M.abs().max()).all()

@pytest.mark.parametrize('method', methods)
def test_unit_of_pan(method):
    "PAN is matched or regressed on everywhere: its unit does not matter, but to FE-HPM, whose 1e5 is in digital numbers squared."
    ms,pan,_ = some()
    x = methods[method](ms, pan, 'QB')
    y = methods[method](ms, 3.5*pan, 'QB')
    assert (x-y).abs().max() < (20 if method=='FE-HPM' else 1e-6)

@pytest.mark.parametrize('method', [m for m in methods if m!='EXP'])
def test_closer_to_truth_than_exp(method):
    ms,pan,gt = some(h=32, w=32, C=3)
    def mse(v): return (v-gt)[..., 20:-20, 20:-20].square().mean()
    assert mse(methods[method](ms, pan, 'generic')) < mse(methods['EXP'](ms, pan, None))

def test_glp_shares_low_passes():
    pan = some()[1]
    assert glp(pan, 'GE1', 4, 4)[0].shape[1]==1
    PL,s = glp(pan, 'IKONOS', 4, 4)
    assert PL.shape[1]==4 and s.shape==(4, 1, 1)
    assert (PL[:, 1]!=PL[:, 2]).any() and (PL[:, 1]==PL[:, 3]).all() # .28 .29 .28

def test_blur_of_a_small_pan():
    h = blur(torch.rand(2, 1, 16, 20)*100, torch.rand(2, 3, 16, 20)*100)
    assert h.shape==(2, 1, 15, 15) and (h>=0).all() and torch.allclose(h.sum((-2, -1)), torch.ones(2, 1).double())

def test_wrong_input():
    ms,pan,_ = some()
    for f in methods.values():
        with pytest.raises(ValueError, match='do not fit'): f(ms, pan[..., 1:], 'QB')
        with pytest.raises(ValueError, match='NaN'): f(ms*float('nan'), pan, 'QB')
        with pytest.raises(ValueError, match='power of two'): f(*some(r=3, h=9, w=9)[:2], 'QB')
    with pytest.raises(ValueError, match='name the bands'): methods['MTF-GLP'](*some(C=5)[:2], 'QB')

def test_papers():
    assert papers.keys()==methods.keys()
    assert all(p[-4:].isdigit() and ', ' in p for p in papers.values())
