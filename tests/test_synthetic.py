"Made-up scenes: the answer is the answer, and they behave like the real scenes next door."
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest, torch
from pansharp_nb.data.degrade import decimate, mtf_kernel
from pansharp_nb.data.scenes import crop, open_scene, save_scene, trim_nodata
from pansharp_nb.data.sensors import sensor, sensors
from pansharp_nb.data.synthetic import band_edges, made_up, materials, responses, spectra, scene_statistics
from scipy import ndimage

real_dir = Path(__file__).parents[2]/'shared'/'scenes'
needs_scenes = pytest.mark.skipif(not real_dir.is_dir(), reason='no real scenes in ../shared/scenes')


@pytest.mark.parametrize('name', [*sensors, 'generic'])
@pytest.mark.parametrize('size', [64, (128, 64)])
def test_a_scene(name, size):
    ds,s = made_up(name, size, seed=7),sensor(name)
    C,r,(H,W) = len(s.bands),s.ratio,(size if isinstance(size, tuple) else (size, size))
    assert ds.ms.shape==(C, H//r, W//r) and ds.pan.shape==(H, W) and ds.gt.shape==(C, H, W)
    assert ds.ms.dims==('band', 'y_ms', 'x_ms') and ds.gt.dims==('band', 'y', 'x')
    assert {ds[v].dtype for v in ds}=={np.dtype('uint16')}
    assert ds.attrs['name']==f'made-up-{s.name}-seed7' and ds.licence=='CC0-1.0' and ds.kind=='made_up' and ds.split=='test'
    assert ds.sensor==s.name and tuple(ds.bands)==s.bands and ds.ratio==r and ds.bit_depth==s.bit_depth
    assert [ds.bands[i] for i in ds.rgb]==['R', 'G', 'B']
    for v in ds: assert ds[v].max()<=s.peak and ds[v].min()>0 and np.unique(ds[v]).size>30
    assert float(ds.gt.min())<float(ds.gt.mean())/2 and (ds.gt==s.peak).mean()<.01


@pytest.mark.parametrize('name', ['IKONOS', 'WV2', 'L8'])
def test_ms_is_the_degraded_answer(name):
    "Against scipy and the toolbox's kernel, not through `mtf`."
    s,ds = sensor(name),made_up(name, 128, noise=0)
    gt = ds.gt.values.astype(float)
    low = np.stack([ndimage.correlate(x, mtf_kernel(g, s.ratio), mode='nearest') for x,g in zip(gt, s.gains)])
    ms = low[:, s.ratio//2::s.ratio, s.ratio//2::s.ratio]
    assert abs(ds.ms.values-ms).max()<.51
    other = np.abs(ds.ms.values-low[:, ::s.ratio, ::s.ratio]).mean()
    assert other>20*np.abs(ds.ms.values-ms).mean(), 'another phase fits as well'


def test_noise():
    a,b = made_up('WV2', 256, seed=3),made_up('WV2', 256, seed=3, noise=0)
    assert (a.gt==b.gt).all()
    d = a.pan.values.astype(float)-b.pan.values
    bright = b.pan.values>np.median(b.pan)
    assert abs(d.mean())<.1 and d[bright].std()>1.1*d[~bright].std()>.8
    snr = (b.ms.astype(float).mean()/(a.ms.astype(float)-b.ms).std()).item()
    assert 100<snr<400


def test_seeds():
    a = made_up('GE1', 128, seed=1)
    for v in a: assert a[v].values.tobytes()==made_up('GE1', 128, seed=1)[v].values.tobytes()
    b = made_up('GE1', 128, seed=2)
    assert abs(np.corrcoef(a.pan.values.ravel(), b.pan.values.ravel())[0, 1])<.5
    torch.manual_seed(5); np.random.seed(5)
    assert made_up('GE1', 128, seed=1).identical(a), 'depends on the global generators'
    x = np.random.rand(), torch.rand(1).item()
    torch.manual_seed(5); np.random.seed(5); made_up('GE1', 64)
    assert (np.random.rand(), torch.rand(1).item())==x, 'moves the global generators'


def test_bands_and_own_sensors():
    assert made_up('WV3', 64, bands=4).ms.shape[0]==4
    assert made_up('WV3', 64, bands=['R', 'C']).bands==['R', 'C']
    assert made_up('generic', 64, bands=6).gt.shape==(6, 64, 64)
    own = replace(sensor('QB'), name='mine', bit_depth=8, ratio=2)
    ds = made_up(own, 64)
    assert ds.ms.shape==(4, 32, 32) and ds.gt.max()<=255 and ds.gt.max()>100
    for bad in (66, (64, 30), 0, -4, (64, 64, 64), 64.5):
        with pytest.raises(ValueError, match='multiples of the ratio 4'): made_up('QB', bad)
    with pytest.raises(ValueError, match='generic'): made_up('Sputnik', 64)


def test_file(tmp_path):
    ds = made_up('L8', 64)
    back = open_scene(save_scene(ds, tmp_path/'a.nc'))
    for v in ds: assert (back[v].values==ds[v].values).all() and back[v].dtype==ds[v].dtype
    assert list(back.bands)==list(ds.bands) and back.licence=='CC0-1.0'


def test_responses():
    for s in map(sensor, sensors):
        wl = np.arange(400, 2401, 5.)
        R,E = responses(s),list(band_edges(s).values())
        assert R.shape==(len(s.bands)+1, 401) and (R>=0).all()
        for q,e in zip(R, E):
            if e: assert e[0]-20<(q*wl).sum()<e[1]+20 and q[(wl>=e[0]-15) & (wl<=e[1]+15)].sum()>.75
        assert E[-1][0]<min(e[1] for e,b in zip(E, s.bands) if b=='G')
    rho = spectra()
    assert rho.shape==(len(materials), 401) and rho.min()>=0 and rho.max()<1


def test_materials_show():
    "Vegetation, water and roofs are where they should be in colour space."
    ds = made_up('WV2', 512, seed=0)
    B,G,R,N = [ds.gt.values[ds.bands.index(b)].astype(float) for b in ('B', 'G', 'R', 'NIR1')]
    ndvi,ndwi = (N-R)/(N+R),(G-N)/(G+N)
    assert .15<(ndvi>.4).mean()<.9 and .01<(ndwi>.2).mean()<.25
    assert ds.pan.values[ndwi>.2].mean()<.7*ds.pan.values.mean(), 'water is dark'
    assert np.percentile(ds.pan, 99)>1.3*np.median(ds.pan), 'nothing bright'


def test_sharper_than_ms():
    ds = made_up('WV2', 256)
    gt = torch.from_numpy(ds.gt.values.astype(float))[None]
    assert (gt-decimate(gt, 4).repeat_interleave(4, -1).repeat_interleave(4, -2)).std()>.2*gt.std()


def _real():
    for f in sorted(real_dir.glob('*.nc')):
        if 'msonly' in f.name: continue
        ds = open_scene(f)
        if ds.kind!='full_resolution_pair' or ds.bit_depth<10 or not {'B', 'G', 'R'} <= set(ds.bands): continue
        yield scene_statistics(crop(ds := trim_nodata(ds), *[slice(max(n//2-64, 0), n//2+64) for n in ds.ms.shape[1:]]))


@needs_scenes
def test_like_real_scenes():
    "Every statistic's median inside the real range, and nine in ten of all numbers."
    real = list(_real())
    made = [scene_statistics(made_up(n, 384, seed)) for n in sensors for seed in (10, 11)]
    assert len(real)>10
    inside = {}
    for k in made[0]:
        lo,hi = [f([d[k] for d in real if k in d]) for f in (min, max)]
        v = np.array([d[k] for d in made])
        assert lo<=np.median(v)<=hi, f'{k}: median {np.median(v):.3f}, real scenes {lo:.3f} to {hi:.3f}'
        slack = .25*(hi-lo)
        assert v.min()>lo-slack and v.max()<hi+slack, f'{k}: {v.min():.3f} to {v.max():.3f}, real {lo:.3f} to {hi:.3f}'
        inside[k] = ((v>=lo) & (v<=hi)).mean()
    assert np.mean(list(inside.values()))>.9 and min(inside.values())>.6, inside


@needs_scenes
def test_statistics_tell_noise_from_land():
    "White noise is outside the real range almost everywhere, so the test above can fail."
    real,ds = list(_real()),made_up('IKONOS', 384)
    rng = np.random.default_rng(0)
    fake = ds.assign({v: (ds[v].dims, rng.integers(300, 700, ds[v].shape).astype(np.uint16)) for v in ds})
    fake = scene_statistics(fake)
    out = [k for k,v in fake.items() if not min(d[k] for d in real if k in d)<=v<=max(d[k] for d in real if k in d)]
    assert {'PAN ~ B', 'slope', 'detail', 'gradient'} <= set(out)
