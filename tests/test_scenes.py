"Every layout of scenes.ipynb and fetch.ipynb, written small here, and the real scenes where they are."
import csv, errno, hashlib, http.server, os, pickle, random, tarfile, threading, tracemalloc, warnings
from dataclasses import replace
from pathlib import Path
import h5py, numpy as np, pytest, rasterio, rioxarray, scipy.io, torch, xarray as xr
from rasterio import Affine
from scipy.ndimage import gaussian_filter
from pansharp_nb.data.degrade import interp23tap
from pansharp_nb.data import fetch
from pansharp_nb.data import scenes as S
from pansharp_nb.data.scenes import as_scene, check_scene, crop, largest_rectangle, nbu_split, nodata_mask, open_scene
from pansharp_nb.data.scenes import samples, save_scene, scene_sensor, to_tensors, trim_nodata
from pansharp_nb.data.sensors import Sensor, sensor, sensors

pytestmark = [pytest.mark.filterwarnings(f'ignore::{w}') for w in ('PendingDeprecationWarning',
    'rasterio.errors.NotGeoreferencedWarning')]
UTM = 'EPSG:32633'

def arrays(c=4, h=12, w=10, r=4, top=2000, dtype='uint16', seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(100, top, (c, h, w)).astype(dtype), rng.integers(100, top, (r*h, r*w)).astype(dtype)

def tif(path, a, t=None, crs=UTM, nodata=None):
    a = a if a.ndim==3 else a[None]
    geo = dict(crs=crs, transform=t) if t else {}
    geo |= dict(zip(('count', 'height', 'width'), a.shape))
    with rasterio.open(path, 'w', driver='GTiff', dtype=a.dtype, nodata=nodata, **geo) as f: f.write(a)
    return path

def grid(px, x=5e5, y=6e6): return Affine(px, 0, x, 0, -px, y)

def v73(path, **kw): # as MATLAB writes it: axes reversed
    with h5py.File(path, 'w', userblock_size=512) as f:
        for k,a in kw.items(): f[k] = np.asarray(a).T
    return path

def hwc(a): return np.moveaxis(a, 0, -1)

def one_line(e, *parts):
    assert '\n' not in str(e.value), e.value
    for p in parts: assert str(p) in str(e.value), (p, e.value)

# real scenes

def test_all_real_scenes_open(scenes):
    "As the index of the folder says, with their numbers and types untouched."
    rows = list(csv.DictReader(open(scenes/'index.csv', encoding='utf-8')))
    assert len(rows)==len(list(scenes.glob('*.nc')))
    for r in rows:
        ds = open_scene(scenes/f'{r["name"]}.nc', pan=False if r['kind']=='ms_only' else None)
        assert (ds.name, ds.kind, ds.split) == (r['name'], r['kind'], r['split'])
        assert ds.sensor==('generic' if r['sensor'] in ('UNKNOWN', 'NAIP') else r['sensor'])
        assert 'x'.join(map(str, ds.ms.shape))==r['ms'] and len(ds.bands)==ds.sizes['band']
        assert ('x'.join(map(str, ds.pan.shape)) if 'pan' in ds else '')==r['pan']
        assert ('x'.join(map(str, ds.gt.shape)) if 'gt' in ds else '')==r['gt']
        assert ds.bit_depth==(int(r['bit_depth']) if r['bit_depth'].isdigit() else 0)
        assert 'pan' not in ds or ds.ratio==int(r['ratio'])
        s = scene_sensor(ds)
        assert len(s.bands)==len(s.gains)==ds.sizes['band'] and s.peak==(2**ds.bit_depth-1 or 1)
        with h5py.File(scenes/f'{r["name"]}.nc') as f:
            for v in ds.data_vars: assert ds[v].dtype==f[v].dtype and (ds[v].values==f[v][()]).all()

def test_band_orders_of_real_scenes(scenes):
    def b(name): return open_scene(scenes/f'{name}.nc').bands
    assert b('SPOT6_cropland')==['R', 'G', 'B', 'NIR']
    assert b('WV2_imgWV2')==list(sensors['WV2'].bands)
    assert b('WV2_SN6_rotterdam1')==['B', 'G', 'R', 'NIR1']
    assert b('L8_xlandsat_momotombo')==['B', 'G', 'R', 'NIR', 'SWIR1', 'SWIR2']
    assert b('L8_gppnn_val_12')==list(sensors['L8'].bands)
    assert b('Unknown4b_8bit_fang')==['b1', 'b2', 'b3', 'b4']
    ds = open_scene(scenes/'NAIP_5m_msonly_2019.nc', pan=False)
    assert ds.bands==['R', 'G', 'B', 'NIR'] and ds.rgb==[0, 1, 2]
    with pytest.raises(ValueError) as e: open_scene(scenes/'NAIP_5m_msonly_2019.nc')
    one_line(e, 'pan=False', 'NAIP_5m')

@pytest.mark.parametrize('name', ['WV2_SN6_rotterdam2', 'WV2_SN6_rotterdam3', 'WV2rr8_pangan_2'])
def test_trim_real_tiles(scenes, name):
    "No zero is left, and no row or column more would fit."
    ds = open_scene(scenes/f'{name}.nc')
    bad = nodata_mask(ds)
    rows,cols = largest_rectangle(~bad)
    t = trim_nodata(ds)
    assert bad.any() and not nodata_mask(t).any()
    assert t.ms.shape[1:]==(rows.stop-rows.start, cols.stop-cols.start) and (t.ms.values!=0).any(0).all()
    for r,c in ((slice(rows.start-1, rows.stop), cols), (slice(rows.start, rows.stop+1), cols),
        (rows, slice(cols.start-1, cols.stop)), (rows, slice(cols.start, cols.stop+1))):
        inside = r.start>=0 and c.start>=0 and r.stop<=bad.shape[0] and c.stop<=bad.shape[1]
        assert not inside or bad[r, c].any()
    assert t.ms[0].size > .95*(~bad).sum()

def test_black_shadow_is_not_nodata(scenes):
    "An 8-bit stretched scene has MS pixels that are 0 in every band; PAN there is not."
    ds = open_scene(scenes/'WV2_sydney8bit.nc')
    assert (ds.ms.values==0).all(0).any() and trim_nodata(ds) is ds

def test_real_scene_round_trip(scenes, tmp_path):
    ds = open_scene(scenes/'GF2rr_psdata3_tr0.nc')
    back = open_scene(save_scene(ds, tmp_path/'GF2rr_psdata3_tr0.nc'))
    assert back.identical(ds) and (tmp_path/'GF2rr_psdata3_tr0.nc').stat().st_size < 1e6

# arrays, checks

def broken():
    ms,pan = arrays()
    ok = as_scene(ms, pan, 'QB')
    def f(gt=None, **kw):
        a = dict(ms=kw.pop('ms', ms), pan=kw.pop('pan', pan))
        extra = {} if gt is None else dict(gt=(('b2', 'y2', 'x2'), gt))
        return xr.Dataset({v: (S._dims[v], o) for v,o in a.items()} | extra, attrs=ok.attrs | kw)
    fl = ms.astype('float32')
    nan,inf = fl.copy(),fl.copy()
    nan[0, 3, 3],inf[1, 0, 0] = np.nan,np.inf
    return dict(whole=(f(pan=pan[:-1]), 'no whole ratio'), uneven=(f(pan=pan[:, :20]), 'no whole ratio'),
        ratio=(f(pan=pan[:24, :20]), 'ratio 2, not the 4 of QB'), stated=(f(pan=pan[:24, :20], ratio=2), 'QB has 4'),
        equal=(f(pan=pan[:12, :10], ratio=1, sensor='generic'), 'no finer'),
        few=(f(ms=ms[:2], bands=['B', 'G']), None), count=(f(ms=ms[:2]), '2 bands, but 4 names'),
        camera=(f(sensor='Sputnik'), "or 'generic'"), band=(f(bands=['B', 'G', 'R', 'X']), 'name the bands'),
        eight=(as_scene(*arrays(8), 'WV2').assign_attrs(sensor='QB'), 'name the bands'),
        nan=(f(ms=nan), 'NaN'), inf=(f(ms=inf), 'infinite'), bits=(f(ms=ms+2000), 'more than 11 bits'),
        pan=(f(pan=pan+2000), 'pan goes up'), negative=(f(ms=fl-200), None), negint=(f(ms=ms.astype('int16')-200), None), gt=(f(np.stack([pan]*3)), 'gt has the shape'),
        gtms=(f(ms), 'gt has the shape'), gtok=(f(np.stack([pan]*4)), None),
        void=(f(ms=0*ms, pan=0*pan), 'nothing but nodata'), lost=(f().drop_attrs(), 'no attribute sensor'),
        noms=(ok.drop_vars('ms'), 'no variable ms'),
        fill=(f(ms=0*ms+65535, nodata=65535), 'nothing but nodata'), empty=(ok.isel(y_ms=slice(0, 0)), 'empty'))

@pytest.mark.parametrize('name', broken())
def test_refused_in_one_line(name):
    ds,said = broken()[name]
    if said is None:
        assert check_scene(ds) is ds
        return
    with pytest.raises(ValueError) as e: check_scene(ds)
    one_line(e, said)

@pytest.mark.parametrize('ms,pan,said', [((4, 0, 4), (0, 16), 'empty'), ((4, 4), (16, 16), '(band, y_ms, x_ms)'),
    ((4, 4, 4), (1, 16, 16), '(y, x)')])
def test_odd_arrays(ms, pan, said):
    with pytest.raises(ValueError) as e: as_scene(np.ones(ms, 'uint16'), np.ones(pan, 'uint16'), 'QB')
    one_line(e, said)
    gt = np.ones((3, 16, 16))
    with pytest.raises(ValueError, match='gt has the shape'): as_scene(gt[:, :4, :4][[0]*4], gt[0], 'QB', gt)
    with pytest.raises(ValueError, match='integers or floats'): as_scene(np.full((4, 2, 2), 'a'), np.ones((8, 8)), 'QB')

def test_bits_nobody_states():
    ms,pan = arrays()
    assert as_scene(ms, pan, 'IKONOS').bit_depth==11
    assert as_scene(ms//16, pan//16, 'generic').bit_depth==8 and as_scene(ms, pan, 'generic').bit_depth==11
    assert as_scene(*arrays(top=255, dtype='uint8'), 'WV4').bit_depth==8
    assert as_scene(ms/1e4, pan/1e4, 'QB').bit_depth==0 and scene_sensor(as_scene(ms/1e4, pan/1e4, 'QB')).peak==1
    assert as_scene(ms*1., pan*1., 'QB').bit_depth==11
    assert as_scene(ms*20, pan*20, replace(sensor('QB'), bit_depth=16)).bit_depth==16
    ringing = ms*1.
    ringing[0, 0, :2] = -15, 2060
    assert as_scene(ringing, pan, 'QB').ms.dtype==np.float64

def test_other_ratios():
    assert as_scene(*arrays(r=2), 'generic').ratio==2 and as_scene(*arrays(r=5), 'generic').ratio==5
    mine = Sensor('Vesselin-1', ('R', 'X'), (.2, .4), .12, (1., 3.), 12, 3)
    ds = as_scene(*arrays(2, r=3), mine)
    assert scene_sensor(ds).gains==(.2, .4) and scene_sensor(ds).ratio==3

def test_own_camera_travels(tmp_path):
    for mine in (Sensor('Vesselin-1', ('R', 'X'), (.2, .4), .12, (1., 3.), 12, 3), replace(sensor('QB'), gain_pan=.2)):
        ds = as_scene(*arrays(len(mine.bands), r=mine.ratio), mine)
        back = open_scene(save_scene(ds, tmp_path/'scene.nc'))
        s = scene_sensor(back)
        assert (s.name, s.bands, s.gains, s.gain_pan, s.ratio, s.bit_depth) == (mine.name, mine.bands, mine.gains,
            mine.gain_pan, mine.ratio, mine.bit_depth)
    assert 'gains' not in open_scene(tmp_path/'scene.nc', sensor='IKONOS').attrs
    assert open_scene(tmp_path/'scene.nc', sensor=replace(sensor('QB'), bit_depth=16)).bit_depth==16

def test_tensors():
    ms,pan = arrays()
    ds = as_scene(ms, pan, 'QB', np.stack([pan]*4))
    assert ds.kind=='reduced_resolution_triplet'
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        a,b,c = to_tensors(ds, dtype=dtype)
        assert (a.shape, b.shape, c.shape)==((1, 4, 12, 10), (1, 1, 48, 40), (1, 4, 48, 40)) and a.dtype==b.dtype==dtype
    assert (to_tensors(ds)[0][0].numpy()==ms).all() and to_tensors(as_scene(ms, pan, 'QB'))[2] is None
    a,b,c = to_tensors(as_scene(ms, None, 'QB'))
    assert b is None and c is None
    a += 1
    assert (ds.ms.values==ms).all()

def test_crop_and_its_errors():
    ms,pan = arrays()
    ds = as_scene(ms, pan, 'QB', np.stack([pan]*4))
    c = crop(ds, slice(2, 7), slice(None, -3))
    assert (c.ms.values==ms[:, 2:7, :7]).all() and (c.pan.values==pan[8:28, :28]).all() and c.gt.shape==(4, 20, 28)
    check_scene(c)
    for bad in (slice(5, 5), slice(0, 8, 2), slice(50, 60)):
        with pytest.raises(ValueError) as e: crop(ds, bad)
        one_line(e, 'slice(start, stop)')

def test_nodata_declared_and_not():
    ms,pan = arrays()
    ms[0, 4, 4],pan[0, 0] = 0,0
    assert not nodata_mask(as_scene(ms, pan, 'QB')).any()
    ms[:, :, :3],pan[:, :10] = 0,0 # PAN ends half-way through the third MS column
    assert (nodata_mask(as_scene(ms, pan, 'QB')).sum(0)==[12]*3+[0]*7).all()
    pan[:, 10:14] = 0              # and now reaches into the fourth
    assert (nodata_mask(as_scene(ms, pan, 'QB')).sum(0)==[12]*4+[0]*6).all()
    ms,pan = arrays()
    pan[:, -13:] = 0               # the PAN strip is narrower, or MS is
    assert (nodata_mask(as_scene(ms, pan, 'QB')).sum(0)==[0]*6+[12]*4).all()
    ms[:, :3] = 0
    assert trim_nodata(as_scene(ms, pan, 'QB')).ms.shape==(4, 9, 6)
    ms,pan = arrays(dtype='float32')
    ms[2, 5, 5] = pan[0, -1] = np.nan
    with pytest.raises(ValueError, match='set nodata'): as_scene(ms, pan, 'QB')
    ds = as_scene(ms, pan, 'QB', nodata=np.nan)
    assert np.argwhere(nodata_mask(ds)).tolist()==[[0, 9], [5, 5]]
    assert np.isfinite(trim_nodata(ds).ms.values).all() and ds.bit_depth==11
    assert as_scene(np.nan_to_num(ms, nan=-9999), np.nan_to_num(pan, nan=-9999), 'QB', nodata=-9999).bit_depth==11

def test_rectangle_against_every_rectangle():
    rng = np.random.default_rng(1)
    for _ in range(20):
        ok = rng.random(rng.integers(1, 9, 2))>rng.random()
        n = np.pad(ok.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        best = max((b-a)*(d-c) for a in range(len(ok)) for b in range(a, len(ok)+1) for c in range(ok.shape[1])
            for d in range(c, ok.shape[1]+1) if n[b, d]-n[a, d]-n[b, c]+n[a, c]==(b-a)*(d-c))
        assert ok[largest_rectangle(ok)].size==best and ok[largest_rectangle(ok)].all()

# GeoTIFF

def test_geotiff_keeps_its_place(tmp_path):
    ms,pan = arrays()
    a,b = tif(tmp_path/'ms.tif', ms, grid(2.4), nodata=0), tif(tmp_path/'pan.tif', pan, grid(.6), nodata=0)
    ds = open_scene(a, 'QuickBird', b)
    assert (ds.sensor, ds.nodata, ds.ms.dtype, ds.name)==('QB', 0, np.uint16, 'ms') and (ds.ms.values==ms).all()
    want = rioxarray.open_rasterio(a)
    c = crop(ds, slice(2, 7), slice(1, 9))
    for d in (open_scene(save_scene(ds, tmp_path/'s.nc')), xr.open_dataset(tmp_path/'s.nc', decode_coords='all')):
        assert d.ms.rio.crs==d.pan.rio.crs==want.rio.crs
        assert np.allclose(d.ms.rio.bounds(), want.rio.bounds(), rtol=1e-12)
        assert d.ms.rio.transform()==grid(2.4) and np.allclose(d.pan.rio.bounds(), want.rio.bounds())
    assert np.allclose(c.ms.rio.bounds(), want.isel(y=slice(2, 7), x=slice(1, 9)).rio.bounds(), rtol=1e-12)
    assert np.allclose(c.pan.rio.bounds(), c.ms.rio.bounds()) and np.allclose(c.x_ms, want.x[1:9])
    assert ds.ms.rio.transform()==grid(2.4)
    c = open_scene(save_scene(c, tmp_path/'c.nc'))
    assert c.ms.rio.transform()==grid(2.4, 5e5+2.4, 6e6-4.8)
    c.ms.rio.to_raster(tmp_path/'again.tif')
    with rasterio.open(tmp_path/'again.tif') as f:
        assert f.transform.almost_equals(c.ms.rio.transform(), 1e-6) and f.crs.to_epsg()==32633

def test_geotiff_rotated_and_bare(tmp_path):
    ms,pan = arrays()
    t = Affine(2, .5, 5e5, .5, -2, 6e6)
    p = Affine(.5, .125, 5e5, .125, -.5, 6e6)
    ds = open_scene(tif(tmp_path/'m.tif', ms, t), 'QB', tif(tmp_path/'p.tif', pan, p))
    assert ds.ms.rio.transform()==t and 'x' not in ds.coords
    assert crop(ds, slice(3, 5)).ms.rio.transform()==Affine(2, .5, 5e5+1.5, .5, -2, 6e6-6)
    ds = open_scene(tif(tmp_path/'m.tif', ms), 'QB', tif(tmp_path/'p.tif', pan))
    assert not ds.coords and ds.ms.rio.crs is None
    ds = open_scene(tmp_path/'m.tif', 'QB', pan=False)
    assert ds.kind=='ms_only' and 'pan' not in ds

def pairs():
    ms,pan = arrays()
    return dict(size=((ms, grid(2.4)), (pan, grid(.61)), 'no whole ratio'), one=((ms, grid(2.4)), (pan[:-1],), 'only one'),
        zone=((ms, grid(2.4)), (pan, grid(.6), 'EPSG:32634'), 'gdalwarp'), far=((ms, grid(2.4)), (pan, grid(.6, 6e5)), 'no ground'),
        big=((ms,), (pan[:-4],), 'no whole ratio'), swapped=((pan[None], grid(.6)), (ms, grid(2.4)), 'swapped'),
        turned=((ms, grid(2.4)), (pan, Affine(.6, .1, 5e5, -.1, -.6, 6e6)), 'turned'),
        odd=((ms[:2], grid(2.4)), (pan, grid(.6)), 'name the bands'))

@pytest.mark.parametrize('name', pairs())
def test_geotiff_pairs_that_do_not_fit(tmp_path, name):
    m,p,said = pairs()[name]
    a,b = tif(tmp_path/'m.tif', *m), tif(tmp_path/'p.tif', *p)
    with pytest.raises(ValueError) as e: open_scene(a, 'QB', b)
    one_line(e, said, tmp_path)

def test_half_a_pan_pixel_is_forgiven(tmp_path):
    ms,pan = arrays(r=2)
    a,b = tif(tmp_path/'m.tif', ms, grid(30)), tif(tmp_path/'p.tif', pan, grid(15, 5e5+7.5, 6e6-7.5))
    assert open_scene(a, 'L8', b).ratio==2

def test_geotiff_asks(tmp_path):
    ms,pan = arrays()
    a,b = tif(tmp_path/'m.tif', ms), tif(tmp_path/'p.tif', pan)
    with pytest.raises(ValueError, match="pan='PAN.tif'"): open_scene(a, 'QB')
    with pytest.raises(ValueError, match='does not say which sensor'): open_scene(a, pan=b)
    assert open_scene(a, 'QB', b, bands=['R', 'G', 'B', 'NIR']).rgb==[0, 1, 2]
    with pytest.raises(ValueError, match='name each one'): open_scene(a, 'QB', b, bands=['R', 'G', 'B'])
    with pytest.raises(FileNotFoundError, match='no.tif'): open_scene(a, 'QB', tmp_path/'no.tif')

# MATLAB

@pytest.mark.parametrize('k', ['I_MS I_PAN I_GT', 'imgMS imgPAN gt', 'I_MS block gt', 'MS PAN GT'])
@pytest.mark.parametrize('write', [lambda p, **kw: scipy.io.savemat(p, kw), v73], ids=['v5', 'v7.3'])
def test_matlab(tmp_path, write, k):
    (ms,pan),k = arrays(),k.split()
    gt = np.stack([pan]*4)+np.arange(4, dtype='uint16')[:, None, None]
    f = tmp_path/'a.mat'
    write(f, **{k[0]: hwc(ms), k[1]: pan, k[2]: hwc(gt)})
    ds = open_scene(f, 'IKONOS')
    for v,a in dict(ms=ms, pan=pan, gt=gt).items(): assert (ds[v].values==a).all() and ds[v].dtype==a.dtype
    write(f, **{k[0]: hwc(ms)})
    write(tmp_path/'p.mat', **{k[1]: pan[..., None]})
    assert (open_scene(f, 'IKONOS', tmp_path/'p.mat').pan.values==pan).all()
    with pytest.raises(ValueError) as e: open_scene(f, 'IKONOS')
    one_line(e, 'no PAN', 'pan=False')
    with pytest.raises(ValueError) as e: open_scene(tmp_path/'p.mat', 'IKONOS')
    one_line(e, 'none of I_MS_LR', k[1])

def test_matlab_that_says_more(tmp_path):
    "The toolbox's own files carry sensor, ratio and L; its `I_MS` beside `I_MS_LR` is the interpolated image."
    ms,pan = arrays()
    up = hwc(ms.repeat(4, 1).repeat(4, 2))
    scipy.io.savemat(tmp_path/'t.mat', dict(I_MS_LR=hwc(ms), I_MS=up, I_PAN=pan, sensor='GeoEye1', ratio=4., L=11))
    ds = open_scene(tmp_path/'t.mat')
    assert (ds.sensor, ds.ratio, ds.bit_depth)==('GE1', 4, 11) and (ds.ms.values==ms).all()

# PanCollection

def pancol(path, n=3, r=4, gt=True, dtype='float64', c=8):
    ms,pan = arrays(c, 4, 4, r, 1000, dtype)
    one = dict(ms=ms, lms=np.repeat(np.repeat(ms, r, 1), r, 2), pan=pan[None])
    one['gt'] = one['lms']+1
    with h5py.File(path, 'w') as f:
        for k,a in one.items():
            if k!='gt' or gt: f[k] = np.stack([a+i for i in range(n)])
    return ms,pan

def test_pancollection(tmp_path):
    ms,pan = pancol(tmp_path/'test_wv3_multiExm1.h5')
    f = tmp_path/'test_wv3_multiExm1.h5'
    assert list(samples(f))==[0, 1, 2]
    ds = open_scene(f, index=2)
    assert (ds.sensor, ds.name, ds.kind)==('WV3', 'test_wv3_multiExm1_2', 'reduced_resolution_triplet')
    assert (ds.ms.values==ms+2).all() and (ds.pan.values==pan+2).all() and ds.gt.shape==(8, 16, 16)
    for bad in (3, -1):
        with pytest.raises(ValueError) as e: open_scene(f, index=bad)
        one_line(e, '3 samples', '0 to 2')
    pancol(tmp_path/'test_gf2_OrigScale.h5', gt=False, c=4)
    ds = open_scene(tmp_path/'test_gf2_OrigScale.h5')
    assert 'gt' not in ds and (ds.sensor, ds.kind, ds.bit_depth)==('GF2', 'full_resolution_pair', 10)

def test_pancollection_reads_one_sample(tmp_path):
    "100 GiB on paper, since chunks are allocated when written: only reading one sample can work."
    n,one = 1_000_000,dict(ms=(8, 16, 16), lms=(8, 64, 64), gt=(8, 64, 64), pan=(1, 64, 64))
    with h5py.File(tmp_path/'train_wv3.h5', 'w') as f:
        for k,s in one.items(): f.create_dataset(k, (n, *s), 'uint16', chunks=(1, *s))[n-5] = 7
        assert sum(f[k].nbytes for k in one) > 100*2**30
    tracemalloc.start()
    assert len(samples(tmp_path/'train_wv3.h5'))==n
    ds = open_scene(tmp_path/'train_wv3.h5', index=n-5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (ds.ms.values==7).all() and peak < 2e6

# folders

def test_nbu(tmp_path):
    d = tmp_path/'4 WorldView-4'
    for k,i in (('MS_256', 0), ('PAN_1024', 1)):
        (d/k).mkdir(parents=True)
        for n in range(1, 13):
            a = arrays(seed=n)[i]
            key = (('I_MS', 'I_PAN'), ('imgMS', 'block'))[n%2][i]
            scipy.io.savemat(d/k/f'{n}.mat', {key: a if i else hwc(a)})
    assert len(samples(d))==12
    names = [open_scene(d, index=i).name for i in range(12)]
    assert names==[f'4 WorldView-4_{n}' for n in sorted(map(str, range(1, 13)))]
    ds = open_scene(d, index=3)
    assert ds.sensor=='WV4' and (ds.pan.values==arrays(seed=12)[1]).all() and (ds.ms.values==arrays(seed=12)[0]).all()
    assert {k: len(v) for k,v in nbu_split(d).items()}==dict(train=6, val=2, test=4)
    assert fetch.scene_files(tmp_path)==[d]
    (d/'PAN_1024'/'7.mat').unlink()
    with pytest.raises(ValueError) as e: open_scene(d)
    one_line(e, '7.mat', 'unpack again')

def test_nbu_split_is_the_one_of_python():
    i = list(range(410))
    r = random.Random(42)
    r.shuffle(i)
    s = nbu_split(410)
    assert s==dict(train=sorted(i[:205]), val=sorted(i[205:287]), test=sorted(i[287:]))
    random.seed(1)
    assert nbu_split(410)==s and len(sum(nbu_split(7).values(), []))==7

def landsat(d, h=20, w=16, geo=True, off=(0, 0), bands=(2, 3, 4, 5, 6, 7)):
    "A plane seen by both grids; PAN has 2n-1 pixels and the same first pixel centre, as in the product definition."
    def plane(n, m, px, x, y): return 5000 + 3*(x+px*(np.arange(m)+.5)) + 5*(y+px*(np.arange(n)[:, None]+.5))
    d.mkdir(parents=True, exist_ok=True)
    dx,dy = off
    p = plane(2*h-1, 2*w-1, 15, 7.5+15*dx, 7.5+15*dy)
    name = 'LC08_L1TP_017051_20151205_20200908_02_T1'
    for b in bands: tif(d/f'{name}_B{b}.TIF', (plane(h, w, 30, 0, 0)+b).astype('uint16'), grid(30) if geo else None)
    tif(d/f'{name}_B8.TIF', p.astype('uint16'), grid(15, 5e5+7.5+15*dx, 6e6-7.5-15*dy) if geo else None)
    return d

@pytest.mark.parametrize('off', [(0, 0), (3, -2), (-5, 4)])
def test_landsat_folder(tmp_path, off):
    "Cut to common ground, an MS pixel is the mean of its four PAN pixels but for half a PAN pixel."
    ds = open_scene(landsat(tmp_path/'LC08', off=off))
    assert ds.sensor=='L8' and ds.ratio==2 and ds.bands==['B', 'G', 'R', 'NIR', 'SWIR1', 'SWIR2']
    h,w = ds.ms.shape[1:]
    mean = ds.pan.values.astype(float).reshape(h, 2, w, 2).mean((1, 3))
    assert abs(mean+2-ds.ms.values[0]+7.5*8).max() <= 1
    assert h>=20-4 and w>=16-4 and (ds.ms.values[1]-ds.ms.values[0]==1).all()
    assert abs(np.subtract(ds.ms.rio.bounds(), ds.pan.rio.bounds())).max() <= 7.5

def test_landsat_without_georeferencing(tmp_path):
    ds = open_scene(landsat(tmp_path/'LC08', geo=False, bands=(1, 2, 3, 4, 5, 6, 7, 9, 10, 11)))
    assert ds.ms.shape==(10, 19, 15) and ds.bands==list(sensors['L8'].bands)
    tif(next((tmp_path/'LC08').glob('*_B8.TIF')), np.ones((30, 30), 'uint16'))
    with pytest.raises(ValueError) as e: open_scene(tmp_path/'LC08')
    one_line(e, 'no whole ratio')
    next((tmp_path/'LC08').glob('*_B8.TIF')).unlink()
    assert open_scene(tmp_path/'LC08', pan=False).kind=='ms_only'
    with pytest.raises(ValueError, match='no PAN'): open_scene(tmp_path/'LC08')

def usgs(d, h=60, w=50, s=8):
    "A texture seen by both cameras, `s` samples a PAN pixel: a Landsat folder, and the same bands as two files."
    f = gaussian_filter(np.random.default_rng(0).standard_normal((2*s*(h+2), 2*s*(w+2))), 3*s, mode='wrap')
    f = 8000+2000*f/f.std()
    def seen(y, x, n, m, k): return f[y:y+n*k, x:x+m*k].reshape(n, k, m, k).mean((1, 3)).astype('uint16')
    ms,pan = seen(2*s, 2*s, h, w, 2*s),seen(2*s+s//2, 2*s+s//2, 2*h-1, 2*w-1, s)
    g,p = grid(30),grid(15, 5e5+7.5, 6e6-7.5)
    for name,a,t in (*((f'x/LC08_B{b}', ms+b, g) for b in (2, 3, 4, 5)), ('x/LC08_B8', pan, p), ('L8_ms', np.stack([ms]*4), g), ('L8_pan', pan, p)):
        (d/name).parent.mkdir(exist_ok=True)
        tif(d/f'{name}.TIF', a, t)
    return d

def alike(ms, pan): # correlation of upsampled MS with PAN made as soft
    a,b = interp23tap(ms.double(), 2)[0, 0].numpy(),gaussian_filter(pan[0, 0].double().numpy(), 1)
    return np.corrcoef(a[16:-16, 16:-16].ravel(), b[16:-16, 16:-16].ravel())[0, 1]

@pytest.mark.parametrize('how', ['folder', 'files', 'no place'])
def test_usgs_corners_are_paired_where_the_toolbox_puts_them(tmp_path, how):
    d = usgs(tmp_path)
    if how=='no place':
        for f in (d/'x').iterdir(): tif(f, rasterio.open(f).read())
    with warnings.catch_warnings(record=True, action='always') as w:
        ds = open_scene(d/'L8_ms.TIF', pan=d/'L8_pan.TIF') if how=='files' else open_scene(d/'x')
    assert (ds.ms.shape, ds.pan.shape)==((4, 59, 49), (118, 98))
    assert any('+0.50 down, +0.50 right' in str(o.message) for o in w)
    ms,pan,_ = to_tensors(ds)
    assert alike(ms, pan)>.999 and alike(ms[..., :-1, :-1], pan[..., 1:-1, 1:-1])<.96, 'one PAN pixel on'
    again = open_scene(save_scene(ds, tmp_path/'again.nc'))
    assert (again.ms.values==ds.ms.values).all() and (again.pan.values==ds.pan.values).all()

# foreign, broken, absent

@pytest.mark.parametrize('ending', ['.nc', '.h5', '.mat', '.tif'])
def test_foreign_files(tmp_path, ending):
    f = tmp_path/f'qb{ending}'
    png = b'\x89PNG\r\n\x1a\n' + bytes(range(256))*20
    for data in (png, b'hello, this is a text file\n'*50, b'', b'CDF\x01'+bytes(200), b'\x89HDF\r\n\x1a\n'+bytes(500)):
        f.write_bytes(data)
        with pytest.raises(ValueError) as e: open_scene(f, pan=False)
        one_line(e, f)

@pytest.mark.parametrize('keep', [.02, .5, .95])
def test_truncated_files(tmp_path, keep):
    ms,pan = arrays(h=40, w=40)
    save_scene(as_scene(ms, pan, 'QB'), tmp_path/'a.nc')
    scipy.io.savemat(tmp_path/'a.mat', dict(I_MS=hwc(ms), I_PAN=pan))
    v73(tmp_path/'a73.mat', I_MS=hwc(ms), I_PAN=pan)
    pancol(tmp_path/'a.h5')
    tif(tmp_path/'a.tif', ms)
    for f in list(tmp_path.iterdir()):
        f.write_bytes((b := f.read_bytes())[:int(keep*len(b))])
        with pytest.raises(ValueError) as e: open_scene(f, 'QB', pan=False if f.suffix=='.tif' else None)
        one_line(e, f)

def test_absent_and_unknown(tmp_path):
    with pytest.raises(FileNotFoundError) as e: open_scene(tmp_path/'no.nc')
    one_line(e, 'no.nc', 'check the path')
    (tmp_path/'a.xyz').write_bytes(b'\x80x')
    for o,said in ((tmp_path/'a.xyz', 'no kind that is known'), (tmp_path, 'MS_256')):
        with pytest.raises(ValueError) as e: open_scene(o)
        one_line(e, said)
    with h5py.File(tmp_path/'other.nc', 'w') as f: f['temperature'] = np.zeros(3)
    with pytest.raises(ValueError) as e: open_scene(tmp_path/'other.nc')
    one_line(e, 'none of ms', 'temperature')
    save_scene(as_scene(*arrays(), 'QB'), tmp_path/'a.nc')
    with pytest.raises(ValueError, match='its own PAN'): open_scene(tmp_path/'a.nc', pan='pan.tif')

class Bomb:
    def __reduce__(self): return os.mkdir, (self.where,)

def test_loading_runs_no_code(tmp_path):
    b = Bomb()
    b.where = str(tmp_path/'ran')
    np.save(tmp_path/'a.npy', np.array([b], object), allow_pickle=True)
    for ending in ('.nc', '.h5', '.mat', '.tif'):
        for data in (pickle.dumps(b), (tmp_path/'a.npy').read_bytes()):
            (tmp_path/f'x{ending}').write_bytes(data)
            with pytest.raises(ValueError): open_scene(tmp_path/f'x{ending}', 'QB', pan=False)
    assert not (tmp_path/'ran').exists()
    pickle.loads(pickle.dumps(b))
    assert (tmp_path/'ran').exists()

# writing

def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    ds,f = as_scene(*arrays(), 'QB'), tmp_path/'a.nc'
    save_scene(ds, f)
    old = f.read_bytes()
    def full(*a): raise OSError(errno.ENOSPC, 'No space left on device')
    with monkeypatch.context() as m:
        m.setattr(os, 'replace', full)
        with pytest.raises(OSError) as e: save_scene(ds.assign_attrs(notes='new'), f)
        one_line(e, 'No space left', f)
    with monkeypatch.context() as m:
        m.setattr(Path, 'write_bytes', lambda p, b: (p.open('wb').write(b[:9]), full()))
        with pytest.raises(OSError): save_scene(ds, f)
    assert f.read_bytes()==old and list(tmp_path.iterdir())==[f]
    with pytest.raises(OSError) as e: save_scene(ds, tmp_path/'no'/'a.nc')
    one_line(e, 'choose another place')
    with pytest.raises(ValueError): save_scene(ds.assign_attrs(ratio=3), tmp_path/'b.nc')
    assert list(tmp_path.iterdir())==[f]

@pytest.mark.skipif(os.name!='posix' or os.geteuid()==0, reason='root may write anywhere')
def test_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError) as e: save_scene(as_scene(*arrays(), 'QB'), tmp_path/'a.nc')
    tmp_path.chmod(0o700)
    one_line(e, 'cannot write')

@pytest.mark.skipif(not Path('/proc/self').is_dir(), reason='needs /proc')
def test_folder_that_takes_no_files():
    with pytest.raises(OSError) as e: save_scene(as_scene(*arrays(), 'QB'), '/proc/self/a.nc')
    one_line(e, 'cannot write /proc/self/a.nc')

# fetching

class Server(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *a): pass
    def do_GET(self):
        type(self).asked += 1
        if 'broken' not in self.path: return super().do_GET()
        self.send_response(200)
        self.send_header('Content-Length', '100000')
        self.end_headers()
        self.wfile.write(b'x'*1000)

@pytest.fixture
def server(tmp_path):
    "A loopback server; gives (its folder, its address, its handler, an empty folder for scenes)."
    d = tmp_path/'server'
    d.mkdir()
    h = type('H', (Server,), dict(asked=0))
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), lambda *a: h(*a, directory=str(d)))
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield d, f'http://127.0.0.1:{s.server_port}', h, tmp_path/'scenes'
    s.shutdown()
    s.server_close()

def mat(d, seed=0):
    ms,pan = arrays(seed=seed)
    scipy.io.savemat(d/'a.mat', dict(I_MS=hwc(ms), I_PAN=pan))
    return d/'a.mat'

def test_fetch_trusts_the_first_use(server):
    d,url,h,out = server
    f = mat(d)
    row = dict(name='lab', url=f'{url}/a.mat', sensor='QB', licence='ours')
    got = fetch.get(row, out)
    assert got==out/'lab.nc' and open_scene(got).licence=='ours' and open_scene(got).source==row['url']
    note = (out/'downloads'/'a.mat.sha256').read_text('utf-8')
    assert note==f'{hashlib.sha256(f.read_bytes()).hexdigest()}  a.mat\n'
    assert fetch.get(row, out)==got and h.asked==1
    raw = out/'downloads'/'a.mat'
    raw.write_bytes(b'x'+raw.read_bytes()[1:])
    with pytest.raises(ValueError) as e: fetch.get(row, out)
    one_line(e, raw, 'damaged', 'is removed')
    assert not raw.exists() and fetch.get(row, out)==got and h.asked==2
    raw.unlink()
    assert fetch.get(row, out)==got and h.asked==2
    got.unlink()
    mat(d, seed=1)
    with pytest.raises(ValueError) as e: fetch.get(row, out)
    one_line(e, 'no longer the file', 'a.mat.sha256')
    assert [p.name for p in (out/'downloads').iterdir()]==['a.mat.sha256']

def test_fetch_known_checksum(server):
    d,url,h,out = server
    f = mat(d)
    row = dict(name='lab', url=f'{url}/a.mat', sensor='QB', sha256=hashlib.sha256(f.read_bytes()).hexdigest())
    fetch.get(row, out)
    with pytest.raises(ValueError) as e: fetch.get(row | dict(name='lab2', sha256='0'*64), out)
    one_line(e, 'damaged', '0'*12)

@pytest.mark.parametrize('where', ['broken.mat', 'absent.mat'])
def test_fetch_interrupted_or_absent(server, where):
    d,url,h,out = server
    with pytest.raises(ConnectionError) as e: fetch.get(dict(name='lab', url=f'{url}/{where}', sensor='QB'), out)
    one_line(e, where, 'check the network')
    assert list((out/'downloads').iterdir())==[] and fetch.scene_files(out)==[]

def test_fetch_without_network(tmp_path):
    row = dict(name='lab', url='http://127.0.0.1:9/a.mat', sensor='QB')
    with pytest.raises(ConnectionError) as e: fetch.get(row, tmp_path)
    one_line(e, 'check the network', tmp_path/'downloads'/'a.mat')
    mat(tmp_path/'downloads') # put there by hand
    assert fetch.get(row, tmp_path)==tmp_path/'lab.nc'

def test_fetch_landsat_archive(server):
    d,url,h,out = server
    with tarfile.open(d/'L8.tar.gz', 'w:gz') as t:
        for f in landsat(d/'x').iterdir(): t.add(f, f'../../{f.name}')
    ds = open_scene(fetch.get(dict(name='L8-here', url=f'{url}/L8.tar.gz', sensor='L8'), out))
    assert ds.sizes['band']==6 and ds.ratio==2 and ds.ms.rio.crs.to_epsg()==32633
    assert not list(out.parent.parent.glob('*.TIF')) and not list(out.parent.glob('*.TIF'))

def test_registry_is_honest():
    t = fetch.scene_table()
    assert t.index.is_unique and set(t.how)=={'made up', 'download', 'by hand'}
    assert t[t.how=='download'].sha256.isna().all() and t[t.how=='download'].url.str.startswith('https://').all()
    assert set(t.index[t.how=='made up'])=={f'made-up-{s}' for s in sensors}
    for name in t.index[t.how=='by hand']:
        with pytest.raises(ValueError) as e: fetch.get(name, '/nowhere')
        one_line(e, 'by hand', f'/nowhere/{name}')
    with pytest.raises(ValueError, match='unknown scene'): fetch.get('Atlantis')

def test_made_up_scenes(tmp_path):
    pytest.importorskip('pansharp_nb.data.synthetic')
    f = fetch.get('made-up-IKONOS', tmp_path)
    ds = open_scene(f)
    assert ds.sensor=='IKONOS' and ds.gt.shape[1:]==ds.pan.shape and fetch.scene_table(tmp_path).here['made-up-IKONOS']
    assert fetch.get('made-up-IKONOS', tmp_path)==f and fetch.scene_files(tmp_path)==[f]
    with pytest.raises(FileNotFoundError): fetch.scene_files(tmp_path/'no')
