"Files of strangers: what they say is taken, what they lack is said, what they must not do is not done."
import os, random, shutil, socket, subprocess, sys, tarfile, warnings, zipfile
from dataclasses import replace
from pathlib import Path
import h5py, numpy as np, pytest, rasterio, rasterio.shutil, rioxarray, scipy.io, xarray as xr # noqa: F401 (gives `.rio`)
from rasterio import Affine
from rasterio.enums import ColorInterp
from pansharp_nb.data import patches
from pansharp_nb.data.scenes import as_scene, nodata_mask, open_image, open_scene, samples, save_scene, scene_sensor, trim_nodata
from pansharp_nb.data.sensors import sensor, sensor_in

pytestmark = pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning',
    'ignore::PendingDeprecationWarning')
UTM = 'EPSG:32633'
BGRN = ['B', 'G', 'R', 'NIR']

def pair(c=4, h=12, w=10, r=4, top=2000, dtype='uint16', seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(100, top, (c, h, w)).astype(dtype), rng.integers(100, top, (r*h, r*w)).astype(dtype)

def tif(path, a, t=None, crs=UTM, driver='GTiff', **kw):
    a = a if a.ndim==3 else a[None]
    geo = dict(crs=crs, transform=t) if t else {}
    with rasterio.open(path, 'w', driver=driver, count=len(a), height=a.shape[1], width=a.shape[2], dtype=a.dtype,
        **geo, **kw) as f:
        f.write(a)
    return path

def grid(px, x=5e5, y=6e6): return Affine(px, 0, x, 0, -px, y)

def hwc(a): return np.moveaxis(a, 0, -1)

def said(path, *args, **kw): # the scene, and the one line about it
    with warnings.catch_warnings(record=True, action='always') as w: ds = open_scene(path, *args, **kw)
    lines = [str(o.message) for o in w if o.category is UserWarning]
    assert len(lines)<2 and all('\n' not in l and Path(path).name in l for l in lines), lines
    return ds, lines[0] if lines else ''

def refused(path, *words, name=None, **kw):
    "One line that names the file."
    with pytest.raises((ValueError, OSError)) as e: open_scene(path, **kw)
    text = str(e.value)
    assert '\n' not in text and (name or Path(path).name) in text and all(w in text for w in words), text

@pytest.fixture
def two(tmp_path):
    "A pair of GeoTIFFs, and its arrays."
    ms,pan = pair()
    return tif(tmp_path/'ms.tif', ms, grid(2.4)), tif(tmp_path/'pan.tif', pan, grid(.6)), ms, pan

# names

@pytest.mark.parametrize('text,name', [(t, n) for n,l in dict(WV3='WorldView03|WV-3|worldview 3|WV03',
    WV2='WorldView-2|wv02', QB='QB02|QuickBird-2|Quick Bird',
    IKONOS='IK01|Ikonos-2', GE1='GE01|GeoEye 1|GEOEYE01', PLEIADES='Pléiades|Pleiades 1A|PHR1A|PHR1B|Pléiades-1B|PHR',
    SPOT6='SPOT-6|SPOT 7',
    L8='Landsat 8 OLI|LC09|LC08|LANDSAT_9|Landsat-8|OLI_TIRS', L7='LE07|Landsat 7 ETM+|LANDSAT_7',
    L5='LT05|Landsat 5 TM',
    GF2='GF02|Gaofen-2|gaofen 02', GF1='GF-1').items() for t in l.split('|')])
def test_names(text, name): assert sensor(text).name==name

@pytest.mark.parametrize('text', ['Sputnik', 'QuickBird 5', 'WV31', 'Pléiades Neo', 'SPOT 5', 'Landsat',
    'WorldView-1', 'GF21', '', 'Landsat 6'])
def test_names_that_are_none(text):
    with pytest.raises(ValueError, match="or 'generic'"): sensor(text)

@pytest.mark.parametrize('text,name', [('18JUN23WV031200018JUN23-M1BS-x.TIF', 'WV3'),
    ('05MAR11QB020500005MAR11-P2AS-y.TIF', 'QB'),
    ('IMG_PHR1A_MS_201308.TIF', 'PLEIADES'), ('LE71230322000001SGS00_B1.TIF', 'L7'),
    ('GF2_PMS1_E113.9_N22.5_20150405.tif', 'GF2'),
    ('my_world_view_3.tif', None), ('hotspot7.tif', None), ('wv3d.tif', None), ('colic.tif', None),
    ('tile_l_8.tif', None), ('wv2_wv3.tif', None)])
def test_names_of_files(text, name): assert sensor_in(text)==name

# the file's own words

def describe(path, words=None, colours=None, waves=None):
    with rasterio.open(path, 'r+') as f:
        if words: f.descriptions = words
        if colours: f.colorinterp = [ColorInterp[c] for c in colours]
        for i,w in enumerate(waves or ()): f.update_tags(i+1, wavelength=w, wavelength_units='Micrometers')
    return path

@pytest.mark.parametrize('kw', [dict(words=['Red', 'Green', 'Blue', 'NIR']), dict(colours=['red', 'green', 'blue',
    'undefined']),
    dict(words=['red band', 'BAND_G', 'MS 1 (blue)', 'near-infrared']), dict(waves=['0.66', '0.56', '0.48', '0.83']),
    dict(colours=['red', 'green', 'blue', 'nir']), dict(words=['Red', 'Green', 'Blue', 'Band 4'])])
def test_words_win(two, kw):
    a,b,ms,_ = two
    ds,line = said(describe(a, **kw), 'QB', b)
    assert ds.bands==['R', 'G', 'B', 'NIR'] and ds.rgb==[0, 1, 2] and (ds.ms.values==ms).all()
    assert scene_sensor(ds).gains==tuple(dict(zip(BGRN, sensor('QB').gains))[k] for k in ds.bands)
    assert ('by place' in line)==('Band 4' in str(kw) or 'undefined' in str(kw))

def test_words_of_eight_bands(tmp_path):
    ms,pan = pair(8)
    order = ['NIR1', 'Red', 'Green', 'Blue', 'Coastal', 'Yellow', 'Red Edge', 'NIR2']
    a = describe(tif(tmp_path/'ms.tif', ms), order)
    assert said(a, 'WV3', tif(tmp_path/'pan.tif', pan))[0].bands==['NIR1', 'R', 'G', 'B', 'C', 'Y', 'RE', 'NIR2']

def test_nobody_names_the_bands(two):
    a,b,*_ = two
    ds,line = said(a, 'QB', b)
    assert ds.bands==BGRN and 'by place, B, G, R, NIR, as QB has them' in line
    assert said(a, 'QB', b, bands=['R', 'G', 'B', 'NIR'])[1]==''
    assert 'as generic' in said(a, 'generic', b)[1]

def test_words_beside_the_file(two):
    a,b,*_ = two
    one,words = '<PAMRasterBand band="{}"><Description>{}</Description></PAMRasterBand>',('Red', 'Green', 'Blue', 'NIR')
    text = ''.join(one.format(i+1, w) for i,w in enumerate(words))
    (a.parent/'ms.tif.aux.xml').write_text(f'<PAMDataset>{text}</PAMDataset>', 'utf-8')
    assert said(a, 'QB', b)[0].bands[:3]==['R', 'G', 'B']

def test_words_of_netcdf(tmp_path):
    ms,pan = pair()
    x = xr.Dataset(dict(ms=(('band', 'y_ms', 'x_ms'), ms), pan=(('y', 'x'), pan)), attrs=dict(sensor='QB'))
    for i,y in enumerate((x.assign_coords(band=['Red', 'Green', 'Blue', 'NIR']),
        x.assign_coords(band=('band', [660., 560., 480., 830.], dict(units='nm'))),
        x.assign(ms=x.ms.assign_attrs(long_name=['red', 'green', 'blue', 'nir'])),
        x.assign_attrs(bands=['red', 'green', 'blue', 'nir']),
        x.assign_attrs(band_order='R,G,B,NIR (as shipped)'))):
        y.to_netcdf(tmp_path/f'{i}.nc', engine='h5netcdf')
        ds,line = said(tmp_path/f'{i}.nc')
        assert (ds.bands, line)==(['R', 'G', 'B', 'NIR'], '') and (ds.ms.values==ms).all(), i

@pytest.mark.parametrize('name', ['generic', 'WV3'])
def test_alpha_is_no_band(tmp_path, name):
    ms,pan = pair(3, top=255, dtype='uint8')
    clear = np.full((12, 10), 255, 'uint8')
    clear[:2] = 0
    a = tif(tmp_path/'ms.tif', np.concatenate([ms, clear[None]]), grid(2.4), photometric='RGB', alpha='YES')
    ds,line = said(a, name, tif(tmp_path/'pan.tif', pan, grid(.6)))
    assert ds.bands==['R', 'G', 'B'] and (nodata_mask(ds)==(clear==0)).all() and 'alpha' in line and ds.bit_depth==8
    assert (ds.ms.values[:, 2:]==ms[:, 2:]).all() and trim_nodata(ds).ms.shape==(3, 10, 10)

def test_an_image_tagged_alpha(tmp_path):
    "rasterio and GDAL tag four bands of bytes red, green, blue, alpha unless told otherwise."
    ms,pan = pair(top=255, dtype='uint8')
    a = tif(tmp_path/'ms.tif', ms, grid(2.4))
    with rasterio.open(a) as f: assert f.colorinterp[3].name=='alpha'
    ds,line = said(a, 'QB', tif(tmp_path/'pan.tif', pan, grid(.6)))
    assert ds.bands==BGRN and (ds.ms.values==ms).all() and 'tagged alpha' in line and 'by place' in line

@pytest.mark.parametrize('inside', ['YES', 'NO'])
@pytest.mark.parametrize('which', ['ms', 'pan'])
def test_masks(two, inside, which):
    a,b,ms,pan = two
    f = a if which=='ms' else b
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(f, 'r+') as o:
        m = np.full(o.shape, 255, 'uint8')
        m[4:8] = 0
        o.write_mask(m)
    ds,line = said(a, 'QB', b)
    want = (m==0) if which=='ms' else (m==0).reshape(12, 4, 10, 4).any((1, 3))
    assert (nodata_mask(ds)==want).all() and 'mask' in line

def test_a_mask_that_is_none(two):
    a,b,ms,_ = two
    (a.parent/'ms.tif.msk').write_text('<GDAL_WMS/>', 'utf-8')
    ds,line = said(a, 'QB', b)
    assert (ds.ms.values==ms).all() and 'ms.tif.msk' in line

def test_pages_are_bands(tmp_path):
    ms,pan = pair()
    for i in range(4): tif(tmp_path/'ms.tif', ms[i], append_subdataset=i>0)
    ds,_ = said(tmp_path/'ms.tif', 'QB', tif(tmp_path/'pan.tif', pan))
    assert (ds.ms.values==ms).all()
    tif(tmp_path/'ms.tif', ms[0, :3, :3], append_subdataset=True)
    ds,line = said(tmp_path/'ms.tif', 'QB', tmp_path/'pan.tif')
    assert (ds.ms.values==ms).all() and '1 of its 5 pages' in line

def test_scale_and_nodata_of_geotiff(tmp_path):
    ms,pan = pair(dtype='int16')
    ms[:, 0, 0] = -9999
    with rasterio.open(tif(tmp_path/'ms.tif', ms, grid(2.4), nodata=-9999), 'r+') as f:
        f.scales,f.offsets = (1e-4,)*4,(-.01,)*4
    with rasterio.open(tif(tmp_path/'pan.tif', pan, grid(.6)), 'r+') as f: f.scales = 1e-4,
    ds,line = said(tmp_path/'ms.tif', 'QB', tmp_path/'pan.tif')
    assert ds.bit_depth==0 and np.allclose(ds.ms.values[:, 1:], ms[:, 1:]*1e-4-.01)
    assert np.allclose(ds.pan.values, pan*1e-4)
    assert np.argwhere(nodata_mask(ds)).tolist()==[[0, 0]] and 'scale 0.0001' in line

@pytest.mark.parametrize('v', ['ms', 'pan', 'gt'])
@pytest.mark.parametrize('engine', ['h5netcdf', 'scipy'])
def test_packed_netcdf(tmp_path, v, engine):
    "xarray packs and unpacks the same way."
    ms,pan = pair(dtype='float32')
    x = xr.Dataset(dict(ms=(('band', 'y_ms', 'x_ms'), ms), pan=(('y', 'x'), pan),
        gt=(('band', 'y', 'x'), np.stack([pan]*4))), attrs=dict(sensor='QB'))
    x[v][..., 0, :3] = np.nan
    x.to_netcdf(tmp_path/'a.nc', engine=engine, encoding={v: dict(dtype='int16', scale_factor=.1, add_offset=1000.,
        _FillValue=-32768)})
    ds,line = said(tmp_path/'a.nc')
    with xr.open_dataset(tmp_path/'a.nc', engine=engine) as want:
        assert np.allclose(ds[v].values, want[v].values, equal_nan=True, atol=1e-3)
    assert f'{v} decoded (scale 0.1, offset 1000)' in line and nodata_mask(ds).any() and ds.bit_depth==11

def test_fill_values(tmp_path):
    for dtype,fill,kw in (('uint16', 65535, {}), ('int16', -1, dict(_Unsigned='true')), ('int16', -9999, {}),
        ('float32', 1e20, {})):
        ms,pan = pair(dtype=dtype)
        ms[1, 3, 3] = fill
        with h5py.File(tmp_path/'a.nc', 'w') as f:
            f['ms'],f['pan'],f.attrs['sensor'] = ms,pan,'QB'
            f['ms'].attrs.update(dict(_FillValue=np.array(fill, dtype)) | kw)
        ds,_ = said(tmp_path/'a.nc')
        assert np.argwhere(nodata_mask(ds)).tolist()==[[3, 3]], (dtype, fill)
        f = save_scene(ds, tmp_path/'b.nc')
        assert np.argwhere(nodata_mask(said(f)[0])).tolist()==[[3, 3]]
    with h5py.File(tmp_path/'a.nc', 'r+') as f:
        f['ms'].attrs.update(missing_value=np.array([f['ms'][0, 0, 0], f['ms'][0, 5, 5]], 'f4'))
    assert {(0, 0), (3, 3), (5, 5)} <= set(map(tuple, np.argwhere(nodata_mask(said(tmp_path/'a.nc')[0]))))

@pytest.mark.parametrize('order', [('x_ms', 'y_ms', 'band'), ('y_ms', 'x_ms', 'band'), ('x_ms', 'band', 'y_ms'),
    ('band', 'x_ms', 'y_ms')])
@pytest.mark.parametrize('engine', ['h5netcdf', 'scipy'])
def test_dimensions_have_names(tmp_path, order, engine):
    ms,pan = pair(dtype='int16')
    x = xr.Dataset(dict(ms=(('band', 'y_ms', 'x_ms'), ms), pan=(('y', 'x'), pan)), attrs=dict(sensor='QB'))
    x = x.assign(ms=x.ms.transpose(*order), pan=x.pan.transpose('x', 'y'))
    if engine=='scipy': x = x.rename(x_ms='lon_ms', y_ms='lat_ms', x='longitude', y='latitude')
    x.to_netcdf(tmp_path/'a.nc', engine=engine)
    ds,_ = said(tmp_path/'a.nc')
    assert (ds.ms.values==ms).all() and (ds.pan.values==pan).all()

def test_other_orders_without_names(tmp_path):
    ms,pan = pair(8, 16, 12)
    scipy.io.savemat(tmp_path/'first.mat', dict(ms=ms, pan=pan))
    np.savez(tmp_path/'last.npz', ms=hwc(ms), pan=pan)
    with h5py.File(tmp_path/'stack.h5', 'w') as f: f['ms'],f['pan'] = np.stack([hwc(ms)]*2),np.stack([pan]*2)[..., None]
    for f in ('first.mat', 'last.npz', 'stack.h5'):
        ds,_ = said(tmp_path/f, 'WV3')
        assert (ds.ms.values==ms).all() and (ds.pan.values==pan).all()

# Landsat

def landsat(d, prefix, bands, px=30, level='L1TP', mid='', pan=True, mtl=None):
    ms,p = pair(9, 10, 8, 2)
    d.mkdir(parents=True)
    stem = f'{prefix}_{level}_017051_20151205_20200908_02_T1'
    for b in bands: tif(d/f'{stem}_{mid}B{b}.TIF', ms[b-1]+np.uint16(b), grid(px))
    if pan: tif(d/f'{stem}_B8.TIF', p[:-1, :-1], grid(px/2, 5e5+px/4, 6e6-px/4))
    if mtl: (d/f'{stem}_MTL.txt').write_text(f'GROUP = X\n  SPACECRAFT_ID = "{mtl}"\n', 'utf-8')
    return d

SIX = ['B', 'G', 'R', 'NIR', 'SWIR1', 'SWIR2']
TM = 1,2,3,4,5,7
@pytest.mark.parametrize('prefix,bands,pan,name,want', [('LE07', TM, True, 'L7', SIX), ('LT05', TM, False, 'L5', SIX),
    ('LC09', (2, 3, 4, 5, 6, 7), True, 'L8', SIX), ('LC08', (1, 2, 3, 4), True, 'L8', ['C', 'B', 'G', 'R'])])
def test_landsat_prefix(tmp_path, prefix, bands, pan, name, want):
    ds,line = said(landsat(tmp_path/'x', prefix, bands, pan=pan), pan=None if pan else False)
    assert (ds.sensor, ds.bands)==(name, want) and 'by place' not in line

def test_landsat_mtl_decides(tmp_path):
    ds,line = said(landsat(tmp_path/'a', 'scene', (1, 2, 3, 4, 5, 7), mtl='LANDSAT_7'))
    assert (ds.sensor, ds.bands)==('L7', SIX)
    ds,line = said(landsat(tmp_path/'b', 'LC08', (1, 2, 3), mtl='LANDSAT_7'))
    assert ds.bands==['B', 'G', 'R'] and 'MTL' in line
    refused(landsat(tmp_path/'c', 'LM05', (1, 2, 3)), 'Landsat')

@pytest.mark.parametrize('how', ['tar', 'tar.gz'])
def test_landsat_archive(tmp_path, how):
    d = landsat(tmp_path/'x', 'LE07', (1, 2, 3, 4, 5, 7), mtl='LANDSAT_7')
    with tarfile.open(tmp_path/f'LE07_x.{how}', 'w:gz' if 'gz' in how else 'w') as t:
        for f in d.iterdir(): t.add(f, f'LE07/{f.name}')
    a,b = said(tmp_path/f'LE07_x.{how}')[0],said(d)[0]
    assert a.drop_attrs().identical(b.drop_attrs()) and (a.name, a.sensor)==('LE07_x', 'L7')
    assert len(samples(tmp_path/f'LE07_x.{how}'))==1

def test_landsat_level_two_with_a_pan_of_level_one(tmp_path):
    two = landsat(tmp_path/'L2', 'LC08', (2, 3, 4, 5), level='L2SP', mid='SR_', pan=False)
    one = landsat(tmp_path/'L1', 'LC08', (2, 3))
    tif(two/'LC08_L2SP_ST_B10.TIF', pair(1, 10, 8)[0], grid(30))
    b8, = one.glob('*_B8.TIF')
    for pan in (b8, one):
        ds,_ = said(two, pan=pan)
        assert ds.bands==BGRN and ds.ratio==2 and ds.kind=='full_resolution_pair'
    refused(two, 'has no PAN', '--pan')
    shutil.copy(next(one.glob('*_B2.TIF')), two)
    refused(two, 'two files of B2', pan=b8)

# known ground

@pytest.mark.parametrize('dh,dw', [(3, 2), (-3, -2), (-1, 0), (0, 1), (-4, 5), (40, 40)])
def test_pan_a_few_pixels_larger_or_smaller(tmp_path, dh, dw):
    ms,big = pair(h=12, w=10)[0],pair(h=30, w=30)[1]
    a,b = tif(tmp_path/'ms.tif', ms, grid(2.4)),tif(tmp_path/'pan.tif', big[:48+dh, :40+dw], grid(.6))
    ds,line = said(a, 'QB', b)
    h,w = min(12, (48+dh)//4),min(10, (40+dw)//4)
    assert ds.ms.shape==(4, h, w) and (ds.ms.values==ms[:, :h, :w]).all() and (ds.pan.values==big[:4*h, :4*w]).all()
    assert 'common ground' in line and ds.ms.rio.bounds()==pytest.approx(ds.pan.rio.bounds())

@pytest.mark.parametrize('x,y', [(3, 5), (-6, 2), (0, -9), (2.3, -.4)])
def test_pan_that_begins_elsewhere(tmp_path, x, y):
    "A plane of the map's own coordinates: an MS pixel is the mean of its PAN pixels, but for the shift that is said."
    def plane(n, m, px, x0, y0):
        across,down = x0+px*(np.arange(m)+.5),y0+px*(np.arange(n)[:, None]+.5)
        return (300 + 6*across + 8*down).astype('float32')
    a = tif(tmp_path/'ms.tif', np.stack([plane(12, 10, 4, 0, 0)]*4), grid(4))
    b = tif(tmp_path/'pan.tif', plane(48, 40, 1, x, y), grid(1, 5e5+x, 6e6-y))
    ds,line = said(a, 'QB', b)
    h,w = ds.ms.shape[1:]
    left = np.array([-y, -x])-np.floor([-y, -x]) # MS minus PAN, PAN pixels
    off = ds.ms.values[0]-ds.pan.values.reshape(h, 4, w, 4).mean((1, 3))
    assert abs(off - (8*left[0]+6*left[1])).max()<.05 and 'common ground' in line
    assert ('in PAN pixels' in line)==bool(left.any())

def test_a_pan_of_another_place(tmp_path, two):
    a,_,ms,pan = two
    refused(a, 'share no ground', sensor='QB', pan=tif(tmp_path/'far.tif', pan, grid(.6, 7e5)))
    refused(a, 'no whole ratio', sensor='QB', pan=tif(tmp_path/'odd.tif', pan, grid(.65)))

def test_world_files(tmp_path, two):
    "MS by a world file alone, PAN with a coordinate system of its own; JPEG and PNG, too."
    _,b,ms,pan = two
    def world(f, px): f.write_text(f'{px}\n0\n0\n{-px}\n{5e5+px/2}\n{6e6-px/2}\n', 'utf-8')
    a = tif(tmp_path/'bare.tif', ms)
    world(tmp_path/'bare.tfw', 2.4)
    ds,_ = said(a, 'QB', b)
    assert ds.ms.rio.crs.to_epsg()==32633 and ds.ms.rio.transform().almost_equals(grid(2.4))
    m,p = tif(tmp_path/'m.png', ms[:3], driver='PNG'),tif(tmp_path/'p.png', pan[:-2], driver='PNG')
    world(tmp_path/'m.pgw', 2.4), world(tmp_path/'p.pgw', .6)
    ds,line = said(m, 'QB', p)
    assert ds.ms.shape==(3, 11, 10) and ds.bands==['R', 'G', 'B'] and 'common ground' in line
    (tmp_path/'m.pgw').write_text('1\n2\n', 'utf-8')
    refused(m, 'm.pgw', 'world file', sensor='QB', pan=p)

@pytest.mark.parametrize('dtype', ['int16', 'int32', 'float32'])
def test_negative_values_are_data(tmp_path, dtype):
    ms,pan = pair(dtype=dtype)
    ms[0, 3, 3],ms[:, 0, 0],pan[40, 20] = -57,-9999,-3
    for nd in (-9999, None):
        a,b = tif(tmp_path/'ms.tif', ms, grid(2.4), nodata=nd),tif(tmp_path/'pan.tif', pan, grid(.6), nodata=nd)
        ds,line = said(a, 'QB', b)
        assert ds.ms.values[0, 3, 3]==-57 and np.argwhere(nodata_mask(ds)).tolist()==[[0, 0]] and 'negative' in line

@pytest.mark.parametrize('name,bits,high,n', [('GF2', 10, 1080, 1), ('WV3', 11, 60000, 2), ('PLEIADES', 12, 4100, 3)])
def test_a_few_pixels_above_the_bits(tmp_path, name, bits, high, n):
    ms,pan = pair(sensor(name).bands.__len__(), 20, 20, top=1000)
    pan.flat[:n*7:7] = high
    scipy.io.savemat(tmp_path/'a.mat', dict(ms=hwc(ms), pan=pan))
    ds,line = said(tmp_path/'a.mat', name)
    assert ds.bit_depth==bits and (ds.pan.values==pan).all() and f'{n} of 6400 values of pan' in line

@pytest.mark.parametrize('name', ['GF2', 'WV3', 'QB'])
def test_a_product_of_other_bits(tmp_path, name):
    ms,pan = pair(len(sensor(name).bands), top=10000)
    np.savez(tmp_path/'a.npz', ms=ms, pan=pan)
    refused(tmp_path/'a.npz', '--bits 14', 'bits=14', sensor=name)
    ds,_ = said(tmp_path/'a.npz', name, bits=14)
    assert ds.bit_depth==14 and scene_sensor(ds).peak==16383 and scene_sensor(ds).gains==sensor(name).gains
    refused(tmp_path/'a.npz', 'whole number', sensor=name, bits=99)

def test_numbers_from_zero_to_one(tmp_path):
    ms,pan = pair()
    for i,a in enumerate((dict(), dict(bit_depth=11))):
        with h5py.File(tmp_path/'a.nc', 'w') as f:
            f['ms'],f['pan'] = (ms/2047).astype('f4'),(pan/2047).astype('f4')
            f.attrs.update(dict(sensor='QB') | a)
        ds,line = said(tmp_path/'a.nc')
        assert ds.bit_depth==0 and scene_sensor(ds).peak==1 and ('11 bits' in line)==bool(a)
    with pytest.raises(ValueError, match='same units'): as_scene(ms/2047, pan, 'QB')
    with pytest.warns(UserWarning, match='below 2'):
        assert as_scene(ms/2047, pan/2047, replace(sensor('QB'), bit_depth=11)).bit_depth==0

@pytest.mark.parametrize('nd', [-9999, 1e12, -3.4e38])
def test_nodata_that_cannot_occur(tmp_path, nd):
    ms,pan = pair()
    ms[:, :2],pan[:8] = 0,0
    a,b = tif(tmp_path/'ms.tif', ms, grid(2.4)),tif(tmp_path/'pan.tif', pan, grid(.6))
    for f in (a, b):
        note = f'<PAMRasterBand band="1"><NoDataValue>{nd}</NoDataValue></PAMRasterBand>'
        (f.parent/f'{f.name}.aux.xml').write_text(f'<PAMDataset>{note}</PAMDataset>', 'utf-8')
    ds,line = said(a, 'QB', b)
    assert (nodata_mask(ds).all(1)==(np.arange(12)<2)).all() and 'does not count' in line

def test_different_nodata(tmp_path):
    ms,pan = pair(dtype='int16')[0],pair()[1]
    ms[:, 2, 2],pan[:2, :2] = -9999,0
    ds,_ = said(tif(tmp_path/'ms.tif', ms, grid(2.4), nodata=-9999), 'QB',
        tif(tmp_path/'pan.tif', pan, grid(.6), nodata=0))
    assert np.argwhere(nodata_mask(ds)).tolist()==[[0, 0], [2, 2]] and (ds.ms.values[:, 3:]==ms[:, 3:]).all()

# kinds of files

@pytest.mark.parametrize('driver,end', [('JP2OpenJPEG', '.jp2'), ('PNG', '.png'), ('ENVI', '.img'), ('ENVI', '.dat'),
    ('NITF', '.ntf')])
def test_other_rasters(tmp_path, driver, end):
    ms,pan = pair()
    a,b = tif(tmp_path/'ms.tif', ms, grid(240)),tif(tmp_path/'pan.tif', pan, grid(60)) # NITF keeps corners to a metre
    kw = dict(REVERSIBLE='YES', QUALITY='100') if driver.startswith('JP2') else {}
    for o in (a, b): rasterio.shutil.copy(o, tmp_path/f'{o.stem}{end}', driver=driver, **kw)
    ds,_ = said(tmp_path/f'ms{end}', 'QB', tmp_path/f'pan{end}')
    assert (ds.ms.values==ms).all() and (ds.pan.values==pan).all() and ds.ms.rio.transform().almost_equals(grid(240), 1)

def test_envi_words_and_size(tmp_path):
    ms,pan = pair()
    a,b = tif(tmp_path/'ms.img', ms, driver='ENVI'),tif(tmp_path/'pan.img', pan, driver='ENVI')
    with open(tmp_path/'ms.hdr', 'a', encoding='utf-8') as f:
        f.write('wavelength units = Nanometers\nwavelength = {660, 560, 480, 830}\n')
    for o in (a, tmp_path/'ms.hdr'): assert said(o, 'QB', b)[0].bands==['R', 'G', 'B', 'NIR']
    a.write_bytes(a.read_bytes()[:-20])
    refused(a, 'declares', 'fetch or export', sensor='QB', pan=b)

def test_numpy_files(tmp_path):
    ms,pan = pair()
    np.save(tmp_path/'ms.npy', hwc(ms))
    np.save(tmp_path/'pan.npy', pan)
    np.savez_compressed(tmp_path/'a.npz', MS=ms.astype('>u2'), PAN=pan[None], ratio=4, sensor='GeoEye-1')
    assert (said(tmp_path/'ms.npy', 'QB', tmp_path/'pan.npy')[0].ms.values==ms).all()
    ds,_ = said(tmp_path/'a.npz')
    assert (ds.ms.values==ms).all() and (ds.pan.values==pan).all() and ds.sensor=='GE1' and ds.ms.dtype==np.uint16

def test_pairs_of_two_kinds(two, tmp_path):
    a,b,ms,pan = two
    np.save(tmp_path/'pan.npy', pan)
    scipy.io.savemat(tmp_path/'pan.mat', dict(I_PAN=pan))
    for p in ('pan.npy', 'pan.mat'): assert (said(a, 'QB', tmp_path/p)[0].pan.values==pan).all()

def vrt(path, source, relative=1, band='', extra=''):
    file = f'<SourceFilename relativeToVRT="{relative}">{source}</SourceFilename>'
    one = f'<VRTRasterBand dataType="UInt16" band="{{0}}" {band}>{extra}<SimpleSource>{file}<SourceBand>{{0}}</SourceBand>' \
        '</SimpleSource></VRTRasterBand>'
    place = '<GeoTransform>5e5, 2.4, 0, 6e6, 0, -2.4</GeoTransform>'
    bands = ''.join(one.format(i) for i in range(1, 5))
    path.write_text(f'<VRTDataset rasterXSize="10" rasterYSize="12">{place}{bands}</VRTDataset>', 'utf-8')
    return path

def test_vrt_of_local_images(two, tmp_path):
    a,b,ms,_ = two
    assert (said(vrt(tmp_path/'v.vrt', 'ms.tif'), 'QB', b)[0].ms.values==ms).all()
    (tmp_path/'deep').mkdir()
    ds,line = said(vrt(tmp_path/'deep'/'v.vrt', '../ms.tif'), 'QB', b)
    assert (ds.ms.values==ms).all() and 'reads' in line and 'ms.tif' in line

# nobody else is opened

@pytest.fixture
def port():
    "A loopback port; nobody may call."
    with socket.create_server(('127.0.0.1', 0)) as s:
        s.setblocking(False)
        yield s.getsockname()[1]
        with pytest.raises(BlockingIOError): s.accept()

def texts(port, path):
    here = f'http://127.0.0.1:{port}'
    source = f'<SimpleSource><SourceFilename>{path}</SourceFilename></SimpleSource>'
    band = f'<VRTRasterBand dataType="UInt16" band="1">{source}</VRTRasterBand>'
    tms = f'<Service name="TMS"><ServerUrl>{here}/${{z}}.png</ServerUrl></Service><DataWindow><TileLevel>1</TileLevel></DataWindow>'
    asset = f'{{"assets": {{"a": {{"href": "{here}/a.tif"}}}}}}'
    return dict(vrt=f'<VRTDataset rasterXSize="10" rasterYSize="12">{band}</VRTDataset>', wms=f'<GDAL_WMS>{tms}</GDAL_WMS>',
        stac=f'{{"type": "FeatureCollection", "stac_version": "1.0.0", "features": [{asset}]}}',
        url=f'/vsicurl/{here}/a.tif', wmts=f'<GDAL_WMTS><GetCapabilitiesUrl>{here}/c.xml</GetCapabilitiesUrl></GDAL_WMTS>')

@pytest.mark.parametrize('end', ['.tif', '.png', '.jp2', '.img', '.nc', '.mat', '.npz', '.npy', '.xml'])
@pytest.mark.parametrize('text', ['vrt', 'wms', 'url', 'stac', 'wmts'])
def test_texts_are_no_images(tmp_path, two, port, end, text):
    f = tmp_path/f'x{end}'
    f.write_text(texts(port, two[0])[text], 'utf-8')
    refused(f, sensor='QB', pan=False)

@pytest.mark.parametrize('source', ['/vsicurl/http://127.0.0.1:{}/a.tif', 'http://127.0.0.1:{}/a.tif',
    '/vsizip/a.zip/ms.tif', 'inner.vrt', 'GTIFF_DIR:1:ms.tif',
    '&lt;GDAL_WMS/&gt;', 'text.tif', 'pipe.tif', 'no.tif', '', '.'])
def test_vrt_that_reaches_out(two, tmp_path, port, source):
    vrt(tmp_path/'inner.vrt', 'ms.tif')
    (tmp_path/'text.tif').write_text('<GDAL_WMS/>', 'utf-8')
    if hasattr(os, 'mkfifo'): os.mkfifo(tmp_path/'pipe.tif')
    refused(vrt(tmp_path/'v.vrt', source.format(port)), sensor='QB', pan=two[1], name='v.vrt')

@pytest.mark.parametrize('kw', [dict(band='subClass="VRTRawRasterBand"'), dict(band='subClass="VRTDerivedRasterBand"',
    extra='<PixelFunctionLanguage>Python</PixelFunctionLanguage>'),
    dict(extra='<Overview><SourceFilename>a.ovr</SourceFilename></Overview>')])
def test_vrt_that_does_more(two, tmp_path, kw): refused(vrt(tmp_path/'v.vrt', 'ms.tif', **kw), 'no plain mosaic',
    sensor='QB', pan=two[1])

def test_vrt_with_entities(two, tmp_path):
    f = vrt(tmp_path/'v.vrt', 'ms.tif')
    f.write_text('<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>'+f.read_text('utf-8').replace('ms.tif', '&a;'), 'utf-8')
    refused(f, 'entities', sensor='QB', pan=two[1])

def test_what_lies_beside(two, port):
    "Overviews, masks and notes that lead elsewhere, inside the file and beside it."
    a,b,ms,_ = two
    t = texts(port, b)
    with rasterio.open(a, 'r+') as f: f.update_tags(ns='OVERVIEWS', OVERVIEW_FILE=t['url'])
    note = f'<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{t["url"]}</MDI></Metadata>'
    beside = {'.ovr': t['wms'], '.msk': t['wms'], '.aux.xml': f'<PAMDataset>{note}</PAMDataset>'}
    for e,o in beside.items(): (a.parent/f'ms.tif{e}').write_text(o, 'utf-8')
    assert (said(a, 'QB', b)[0].ms.values==ms).all()

def test_hdf5_that_lies_elsewhere(tmp_path):
    ms,pan = pair()
    ms.tofile(tmp_path/'raw')
    with h5py.File(tmp_path/'other.h5', 'w') as f: f['ms'],f['pan'] = ms,pan
    def link(f): f['ms'] = h5py.ExternalLink('other.h5', 'ms')
    def soft(f): f['a'],f['ms'] = h5py.ExternalLink('other.h5', '/'),h5py.SoftLink('/a/ms')
    def raw(f): f.create_dataset('ms', ms.shape, 'uint16', external=[(str(tmp_path/'raw'), 0, ms.nbytes)])
    def virtual(f):
        v = h5py.VirtualLayout(ms.shape, 'uint16')
        v[:] = h5py.VirtualSource(str(tmp_path/'other.h5'), 'ms', ms.shape)
        f.create_virtual_dataset('ms', v)
    for make in (link, soft, raw, virtual):
        with h5py.File(tmp_path/'a.h5', 'w') as f:
            f['pan'] = pan
            make(f)
        refused(tmp_path/'a.h5', 'another file', sensor='QB')

# no file at all

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes here')
@pytest.mark.parametrize('end', ['.tif', '.nc', '.mat', '.npz', '.vrt', '.tar', ''])
def test_pipes_devices_folders(tmp_path, two, end):
    f = tmp_path/f'x{end}'
    os.mkfifo(f)
    for kw in (dict(pan=False), dict(pan=two[1])): refused(f, 'pipe', sensor='QB', **kw)
    refused(two[0], 'pipe', sensor='QB', pan=f)
    with pytest.raises(ValueError, match='pipe'): samples(f)
    f.unlink()
    f.symlink_to('/dev/zero')
    refused(f, 'device', sensor='QB')
    f.unlink()
    f.mkdir()
    refused(f, sensor='QB')
    f.rmdir()
    f.touch()
    refused(f, 'empty', sensor='QB')

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes here')
def test_pipes_inside_folders(tmp_path):
    d = landsat(tmp_path/'LC08', 'LC08', (2, 3))
    f = next(d.glob('*_B3.TIF'))
    f.unlink()
    os.mkfifo(f)
    refused(d, 'pipe')
    for k in ('MS_256', 'PAN_1024'): (tmp_path/'4 WorldView-4'/k).mkdir(parents=True)
    for k in ('MS_256', 'PAN_1024'): os.mkfifo(tmp_path/'4 WorldView-4'/k/'1.mat')
    refused(tmp_path/'4 WorldView-4', 'pipe')

@pytest.mark.skipif(sys.platform!='linux', reason='names are text elsewhere')
@pytest.mark.parametrize('name', [b'qb\xff\xfe.', b'qb\n\x1b[31m.', b'qb \xc3\xa9\t.', b'qb%s{x}.', b'qb?a#b:c.',
    b'http:x.', b'-qb.'])
def test_odd_names(tmp_path, name):
    ms,pan = pair()
    f,p = (tmp_path/os.fsdecode(name+e) for e in (b'tif', b'pan.tif'))
    for g,a in ((f, ms), (p, pan)): tif(tmp_path/'t.tif', a, grid(2.4 if a is ms else .6)).rename(g)
    with warnings.catch_warnings(record=True, action='always') as w: ds = open_scene(f, 'QB', p)
    assert (ds.ms.values==ms).all() and ds.name.isprintable()
    assert all(str(o.message).isprintable() for o in w if o.category is UserWarning)
    ds.name.encode()
    nc = tmp_path/os.fsdecode(name+b'nc')
    save_scene(ds, nc)
    assert open_scene(nc).name.isprintable()
    nc.write_bytes(b'junk')
    with pytest.raises(ValueError) as e: open_scene(nc)
    assert str(e.value).isprintable()

def test_paths_that_cannot_be(tmp_path):
    for p in ('a\0b.tif', tmp_path/('x'*300+'.nc'), tmp_path/'no'/'a.nc'):
        with pytest.raises(FileNotFoundError): open_scene(p)
    (tmp_path/'loop.nc').symlink_to(tmp_path/'loop.nc')
    with pytest.raises(FileNotFoundError): open_scene(tmp_path/'loop.nc')

# how much

def within(gigabytes, job): # what `job` prints in a process that may not take more
    import resource
    r,w = os.pipe()
    if not (pid := os.fork()):
        vm = int(open('/proc/self/statm', encoding='utf-8').read().split()[0])*os.sysconf('SC_PAGE_SIZE')
        resource.setrlimit(resource.RLIMIT_AS, (vm+int(gigabytes*2**30),)*2)
        try: os.write(w, job().encode())
        finally: os._exit(0)
    os.close(w)
    with open(r, encoding='utf-8') as f: text = f.read()
    os.waitpid(pid, 0)
    return text

def opened(f):
    try: return f'opened {open_scene(f, "QB", pan=False)}'
    except (ValueError, OSError) as e: return str(e)

@pytest.mark.skipif(sys.platform!='linux', reason='measures memory in /proc')
def test_small_files_that_declare_much(tmp_path):
    "40,000 x 40,000 in a few kilobytes, in many ways, within half a gigabyte of memory."
    n,d = 40000,tmp_path
    how = dict(driver='GTiff', count=4, height=n, width=n, dtype='uint16', sparse_ok=True, tiled=True)
    with rasterio.open(d/'sparse.tif', 'w', **how): pass
    with rasterio.open(d/'one.tif', 'w', **how | dict(count=1, dtype='uint8')): pass
    with rasterio.open(d/'zstd.tif', 'w', **how | dict(count=1, height=9000, width=9000, dtype='uint8',
        compress='zstd', sparse_ok=False)):
        pass
    for f in ('a.h5', 'a.nc'):
        with h5py.File(d/f, 'w') as h:
            h.create_dataset('ms', (4, n, n), 'uint16', chunks=(1, 1000, 1000), compression=9)
    with h5py.File(d/'b.mat', 'w', userblock_size=512) as h: h.create_dataset('I_MS', (4, n, n), 'f8')
    with open(d/'a.npy', 'wb') as f:
        np.lib.format.write_array_header_1_0(f, dict(descr='<u2', fortran_order=False, shape=(4, n, n)))
    with zipfile.ZipFile(d/'b.npz', 'w') as z: z.write(d/'a.npy', 'ms.npy')
    scipy.io.savemat(d/'c.mat', dict(I_MS=np.ones((2, 2, 4), 'uint16')))
    (d/'c.mat').write_bytes((d/'c.mat').read_bytes().replace(np.array([2, 2, 4], 'i4').tobytes(),
        np.array([n, n, 4], 'i4').tobytes()))
    header = f'samples = {n}\nlines = {n}\nbands = 4\ndata type = 12\ninterleave = bsq\nbyte order = 0\n'
    (d/'e.hdr').write_text(f'ENVI\n{header}', 'utf-8')
    (d/'e.img').write_bytes(bytes(1000))
    files = [f for f in d.iterdir()]
    assert max(f.stat().st_size for f in files)<1e6
    lines = within(.5, lambda: '\n'.join(map(opened, files))).splitlines()
    assert len(lines)==len(files) and all(str(f) in l and 'opened' not in l for l,f in zip(lines, files)), lines

def test_the_limit_can_be_raised(tmp_path, monkeypatch, two):
    monkeypatch.setenv('PANSHARP_NB_MAX_GB', '1e-6')
    refused(two[0], 'PANSHARP_NB_MAX_GB=1', sensor='QB', pan=two[1])
    monkeypatch.setenv('PANSHARP_NB_MAX_GB', 'many')
    refused(two[0], 'set a number', sensor='QB', pan=two[1])
    monkeypatch.delenv('PANSHARP_NB_MAX_GB')
    open_scene(two[0], 'QB', two[1])

# damage

def sparse(path, a, t, keep, **kw): # only the first `keep` rows are ever written
    with rasterio.open(path, 'w', driver='GTiff', count=len(a), height=a.shape[1], width=a.shape[2], dtype=a.dtype,
        crs=UTM, transform=t, sparse_ok=True,
        **kw) as f: f.write(a[:, :keep], window=((0, keep), (0, a.shape[2])))
    return path

@pytest.mark.parametrize('kw', [dict(blockysize=1), dict(tiled=True, blockxsize=16, blockysize=16), dict(blockysize=1,
    compress='deflate', interleave='pixel')])
@pytest.mark.parametrize('which', ['ms', 'pan'])
def test_rows_that_were_never_written(tmp_path, kw, which):
    ms,pan = pair(h=160, w=32, r=2)
    todo = dict(ms=(ms, grid(30)), pan=(pan[None], grid(15)))
    for gone,bad in ((16, False), (64, True)):
        r = 2 if which=='pan' else 1
        for v,(a,t) in todo.items():
            sparse(tmp_path/f'{v}.tif', a, t, a.shape[1]-gone*r if v==which else a.shape[1], **kw)
        if bad: refused(tmp_path/'ms.tif', '40% of', 'never written', sensor='L8', pan=tmp_path/'pan.tif')
        else:
            ds,line = said(tmp_path/'ms.tif', 'L8', tmp_path/'pan.tif')
            assert '10.00% of' in line and (nodata_mask(ds).all(1)==(np.arange(160)>=144)).all()
            assert not nodata_mask(ds)[:144].any()

def test_a_writer_that_was_killed(tmp_path):
    code = """import os, sys, numpy as np, rasterio
how = dict(driver='GTiff', count=4, height=64, width=64, dtype='uint16', tiled=True, blockxsize=16, blockysize=16)
f = rasterio.open(sys.argv[1], 'w', **how)
f.write(np.ones((4, 32, 64), 'uint16'), window=((0, 32), (0, 64)))
os._exit(9)"""
    subprocess.run([sys.executable, '-c', code, str(tmp_path/'ms.tif')])
    refused(tmp_path/'ms.tif', sensor='QB', pan=False)

@pytest.mark.parametrize('name,keys', [('a.nc', ('ms', 'pan')), ('a.mat', ('I_MS', 'I_PAN'))])
@pytest.mark.parametrize('gone', [16, 64, 160])
def test_chunks_that_were_never_written(tmp_path, name, keys, gone):
    ms,pan = pair(h=160, w=32, r=2)
    with h5py.File(tmp_path/name, 'w') as f:
        f[keys[1]] = pan.T if name=='a.mat' else pan
        o = f.create_dataset(keys[0], (4, 32, 160) if name=='a.mat' else ms.shape, ms.dtype,
            chunks=(2, 16, 16) if gone<160 else None)
        for i in range(0, 160-gone, 16):
            if name=='a.mat': o[:, :, i:i+16] = ms[:, i:i+16].transpose(0, 2, 1)
            else: o[:, i:i+16] = ms[:, i:i+16]
    if gone>16: return refused(tmp_path/name, f'{gone/1.6:.0f}% of MS was never written', sensor='L8', bits=11)
    ds,line = said(tmp_path/name, 'L8', bits=11)
    assert '10.00% of MS' in line and (nodata_mask(ds).all(1)==(np.arange(160)>=144)).all()
    assert (ds.ms.values[:, :144]==ms[:, :144]).all()

def test_black_rows_are_missing_rows():
    "In the middle too, and in PAN alone; a dark pixel or a short dark line is none."
    ms,pan = pair()
    pan[20:28] = 0
    assert (nodata_mask(as_scene(ms, pan, 'QB')).all(1)==np.isin(np.arange(12), (5, 6))).all()
    ms,pan = pair()
    pan[20:28, 4:36] = 0
    assert not nodata_mask(as_scene(ms, pan, 'QB')).any()

BAD = dict(bit_depth=('eleven', 11.9, 1e12, -3, np.nan, [8, 11], '11 or 12', True, 0), ratio=(4.7, 'four', -4, np.inf, 2),
    bands=(['B', 'B', 'R', 'NIR'], ['B', 'G'], ['B', 'G', 'R', 'X'], 7), nodata=('none', [1, 2]), kind=(3,),
    sensor=(3, 'Sputnik', ['QB', 'WV2']), gains=([.3, .3, .3, 7], 'x', [.3]), rgb=([2, 1, 9], 'RGB', [.5, 1, 2]),
    pan_shift_px=('big',))
@pytest.mark.parametrize('key,value', [(k, v) for k,l in BAD.items() for v in l])
def test_attributes_have_types(tmp_path, key, value):
    ms,pan = pair()
    with h5py.File(tmp_path/'some.nc', 'w') as f:
        f['ms'],f['pan'] = ms,pan
        f.attrs.update(dict(sensor='QB', ratio=4, bit_depth=11, bands=BGRN) | {key: value})
    refused(tmp_path/'some.nc')
    if key in ('bit_depth', 'ratio', 'nodata', 'rgb', 'kind', 'pan_shift_px'):
        with pytest.raises(ValueError) as e: as_scene(ms, pan, 'QB', name='mine', **{key: value})
        assert '\n' not in str(e.value) and 'mine' in str(e.value)

@pytest.mark.parametrize('key,value,want', [('bit_depth', '11', 11), ('bit_depth', 11., 11), ('ratio', '4', 4),
    ('bit_depth', 'unknown', 11), ('ratio', 4., 4)])
def test_attributes_that_can_be_read(tmp_path, key, value, want):
    with h5py.File(tmp_path/'some.nc', 'w') as f:
        f['ms'],f['pan'] = pair()
        f.attrs.update(dict(sensor='QB') | {key: value})
    assert said(tmp_path/'some.nc')[0].attrs[key]==want

@pytest.mark.parametrize('v,key,value', [('ms', 'scale_factor', np.nan), ('ms', 'scale_factor', 0.), ('pan',
    'add_offset', np.inf), ('ms', 'scale_factor', 'ten'),
    ('ms', '_FillValue', 'none'), ('ms', 'scale_factor', [1., 2.]),
    ('spatial_ref', 'GeoTransform', '5e5 nan 0 6e6 0 -.6'), ('spatial_ref', 'GeoTransform', '1 2 3'),
    ('spatial_ref', 'GeoTransform', '5e5 0 0 6e6 0 0'), ('spatial_ref', 'crs_wkt', 'PROJCS["x"')])
def test_attributes_of_arrays(tmp_path, v, key, value):
    with h5py.File(tmp_path/'some.nc', 'w') as f:
        f['ms'],f['pan'] = pair()
        f.attrs['sensor'] = 'QB'
        for k,px in (('spatial_ref', '.6'), ('spatial_ref_ms', '2.4')):
            f.create_dataset(k, data=0).attrs['GeoTransform'] = f'5e5 {px} 0 6e6 0 -{px}'
        f[v].attrs[key] = value
    refused(tmp_path/'some.nc')

def test_odd_attributes_travel_or_stay(tmp_path):
    "Whatever else a file says must not break the writing of its scene."
    with h5py.File(tmp_path/'some.nc', 'w') as f:
        f['ms'],f['pan'] = pair()
        f.attrs.update(dict(sensor='QB', flag=True, licence=b'caf\xe9', empty=h5py.Empty('f'), n=np.int8(3), z=1+2j,
            long='x'*100000, none=np.zeros(0)))
        f.attrs['ref'] = f['ms'].ref
        f.attrs['compound'] = np.zeros(2, [('a', 'i4')])
    ds,_ = said(tmp_path/'some.nc')
    assert ds.attrs['flag']==1 and not {'ref', 'compound', 'z'} & set(ds.attrs)
    assert said(save_scene(ds, tmp_path/'b.nc'))[0].ms.identical(ds.ms)

def test_mutated_files(tmp_path):
    "Bits turned, bytes lost, heads changed: a line, or a scene, never anything else."
    ms,pan = pair(h=20, w=16)
    save_scene(as_scene(ms, pan, 'QB', name='qb', nodata=0), tmp_path/'qb.nc')
    scipy.io.savemat(tmp_path/'qb5.mat', dict(I_MS=hwc(ms), I_PAN=pan, sensor='QB', L=11))
    with h5py.File(tmp_path/'qb.mat', 'w', userblock_size=512) as f: f['I_MS'],f['I_PAN'] = hwc(ms).T,pan.T
    tif(tmp_path/'qb.tif', ms, grid(2.4), compress='deflate'), tif(tmp_path/'qb.png', ms[:3],
        driver='PNG'), np.savez(tmp_path/'qb.npz', ms=ms, pan=pan)
    whole = [(f, f.read_bytes()) for f in sorted(tmp_path.glob('qb*')) if not f.name.endswith('.xml')]
    r,counts = random.Random(0),[0, 0]
    for i in range(120):
        f,data = whole[i%6]
        b = bytearray(data)
        for _ in range(r.choice((1, 3, 30))):
            b[r.randrange(r.choice((64, 1024, len(b))) if len(b)>1024 else len(b))] = r.randrange(256)
        f.write_bytes(b[:int(len(b)*r.random())] if r.random()<.2 else b)
        try: open_scene(f, 'QB', pan=False if f.suffix in ('.tif', '.png') else None)
        except (ValueError, OSError) as e: assert '\n' not in str(e) and f.name in str(e)
        else: counts[1] += 1
        counts[0] += 1
    assert counts[0]==120 and 20<counts[1]<110

# many

def test_a_file_of_many_says_which(tmp_path):
    ms,pan = pair()
    with h5py.File(tmp_path/'test_qb.h5', 'w') as f: f['ms'],f['pan'] = np.stack([ms, ms, ms]),np.stack([pan]*3)[:, None]
    for k,o in (('MS_256', hwc(ms)), ('PAN_1024', pan)):
        (tmp_path/'4 WorldView-4'/k).mkdir(parents=True)
        for n in (1, 10, 2):
            scipy.io.savemat(tmp_path/'4 WorldView-4'/k/f'{n}.mat', {'imgMS' if o.ndim==3 else 'block': o})
    with warnings.catch_warnings(action='ignore'):
        names = [open_scene(tmp_path/p, index=i).name for p in ('test_qb.h5', '4 WorldView-4') for i in samples(tmp_path/p)]
    assert names==['test_qb_0', 'test_qb_1', 'test_qb_2', *(f'4 WorldView-4_{n}' for n in ('1', '10', '2'))]
    save_scene(as_scene(ms, pan, 'QB'), tmp_path/'scene.nc')
    refused(tmp_path/'scene.nc', 'one sample', index=1)

@pytest.mark.parametrize('how', ['mat sr', 'mat one', 'v7.3', 'npy', 'npz', 'tif', 'nc'])
def test_somebodys_image(tmp_path, how):
    x = np.random.default_rng(0).integers(1, 2000, (4, 24, 20)).astype('uint16')
    f = tmp_path/f'x.{dict(zip(("mat sr", "mat one", "v7.3", "npy", "npz", "tif", "nc"), ("mat", "mat", "mat", "npy", "npz", "tif", "nc")))[how]}'
    if how.startswith('mat'): scipy.io.savemat(f, {'sr' if 'sr' in how else 'whatever': hwc(x), **({'other': hwc(x)[:4]} if 'sr' in how else {})})
    elif how=='v7.3':
        with h5py.File(f, 'w', userblock_size=512) as h: h['sr'] = x.transpose(0, 2, 1)
        f.write_bytes(b'MATLAB 7.3 MAT-file'.ljust(124)+b'\x00\x02IM'+bytes(384)+f.read_bytes()[512:])
    elif how=='npy': np.save(f, x)
    elif how=='npz': np.savez(f, fused=x, other=x[:1])
    elif how=='tif': tif(f, x, grid(.6))
    else: save_scene(as_scene(x, None, 'QB'), f)
    assert (open_image(f)==x).all()
    f.write_bytes(b'junk')
    with pytest.raises(ValueError, match=f.name): open_image(f)

def image(path, like, index=None): # an image beside a scene, and the one line about it
    with warnings.catch_warnings(record=True, action='always') as w: x = open_image(path, index, like)
    lines = [str(o.message) for o in w if o.category is UserWarning]
    assert len(lines)<2 and all('\n' not in l and path.name in l for l in lines), lines
    return x, lines[0] if lines else ''

@pytest.fixture
def fused(two):
    "A scene with its place, and an image of PAN's size."
    with warnings.catch_warnings(action='ignore'): ds = open_scene(two[0], 'QB', two[1])
    return ds, np.random.default_rng(1).integers(100, 2000, (4, 48, 40)).astype('uint16')

def test_an_image_lies_where_it_says(fused, tmp_path):
    ds,x = fused
    assert (image(tif(tmp_path/'x.tif', x, grid(.6)), ds)[0]==x).all()
    wide = np.pad(x, ((0, 0), (3, 5), (2, 7)))
    y,line = image(tif(tmp_path/'wide.tif', wide, grid(.6, 5e5-2*.6, 6e6+3*.6)), ds)
    assert (y==x).all() and '56x49 cut to the 48x40' in line
    for name,t,word in (('far', grid(.6, 6e5), 'share no ground'), ('part', grid(.6, 5e5+6), 'only a part'), ('half', grid(.6, 5e5+.3), 'off PAN'), ('size', grid(.7), 'resample')):
        with pytest.raises(ValueError, match=word) as e: open_image(tif(tmp_path/f'{name}.tif', x, t), like=ds)
        assert f'{name}.tif' in str(e.value)
    with pytest.raises(ValueError, match='coordinate systems'): open_image(tif(tmp_path/'crs.tif', x, grid(.6), crs='EPSG:32634'), like=ds)

def test_bands_and_holes_of_an_image(fused, tmp_path):
    ds,x = fused
    f = tif(tmp_path/'x.tif', x[[2, 1, 0, 3]], grid(.6))
    with rasterio.open(f, 'r+') as o: o.descriptions = ['Red', 'Green', 'Blue', 'NIR']
    y,line = image(f, ds.assign_coords(band=BGRN))
    assert (y==x).all() and 'put in the order of MS, B, G, R, NIR' in line
    for nd,z in ((65535, np.where(x<200, 65535, x)), (0, x*(np.arange(48)>5)[:, None])):
        y = image(tif(tmp_path/f'{nd}.tif', z.astype('uint16'), grid(.6), nodata=nd), ds)[0]
        assert np.isnan(y).sum()==(z==nd).sum()>0 and (y[z!=nd]==z[z!=nd]).all()

@pytest.mark.parametrize('how', ['h5', 'npy'])
def test_one_image_of_many(how, tmp_path):
    x = np.random.default_rng(0).integers(1, 2000, (3, 4, 24, 20)).astype('uint16')
    f = tmp_path/f'x.{how}'
    if how=='npy': np.save(f, x)
    else:
        with h5py.File(f, 'w') as h: h['sr'] = x
    with pytest.raises(ValueError, match='holds 3 images'): open_image(f)
    assert (open_image(f, 1)==x[1]).all()
    with pytest.raises(ValueError, match='has 3 samples'): open_image(f, 3)

def coordinates(path, ms, pan, x=0., flip=False, step=1.): # a NetCDF file without a grid mapping
    (h,w),(H,W) = ms.shape[1:],pan.shape
    def centres(n, px): return (np.arange(n)+.5)*px
    at = dict(y_ms=-centres(h, 4*step)[::-1 if flip else 1], x_ms=centres(w, 4*step), y=-centres(H, step), x=centres(W, step)+x)
    xr.Dataset(dict(ms=(('band', 'y_ms', 'x_ms'), ms), pan=(('y', 'x'), pan)), at).to_netcdf(path, engine='h5netcdf')
    return path

def test_coordinates_count_without_a_mapping(tmp_path):
    ms,pan = pair()
    assert said(coordinates(tmp_path/'a.nc', ms, pan), 'QB')[0].pan.shape==(48, 40)
    ds,line = said(coordinates(tmp_path/'b.nc', ms, pan, 8.), 'QB')
    assert ds.ms.shape==(4, 12, 8) and (ds.pan.values==pan[:, :32]).all() and 'common ground' in line
    refused(coordinates(tmp_path/'c.nc', ms, pan, 4e4), 'share no ground', sensor='QB')
    refused(coordinates(tmp_path/'d.nc', ms, pan, flip=True), 'no whole ratio', sensor='QB')

def test_pixel_numbers_are_no_coordinates(tmp_path):
    ms,pan = pair()
    at = {k: np.arange(n) for k,n in zip(('y_ms', 'x_ms', 'y', 'x'), (*ms.shape[1:], *pan.shape))}
    xr.Dataset(dict(ms=(('band', 'y_ms', 'x_ms'), ms), pan=(('y', 'x'), pan)), at).to_netcdf(tmp_path/'a.nc', engine='h5netcdf')
    assert (said(tmp_path/'a.nc', 'QB')[0].pan.values==pan).all()

def test_names_that_nobody_knows_are_said(tmp_path):
    ms,pan = pair()
    xr.Dataset(dict(ms=(('band', 'y_ms', 'x_ms'), ms), pan=(('up', 'along'), pan))).to_netcdf(tmp_path/'a.nc', engine='h5netcdf')
    assert 'pan, of (up, along), is taken by place: (y, x)' in said(tmp_path/'a.nc', 'QB')[1].lower()
    xr.Dataset(dict(ms=(('band', 'nx', 'ny'), ms.transpose(0, 2, 1)), pan=(('lonp', 'latp'), pan.T))).to_netcdf(tmp_path/'b.nc', engine='h5netcdf')
    ds = said(tmp_path/'b.nc', 'QB')[0]
    assert (ds.ms.values==ms).all() and (ds.pan.values==pan).all()

def test_a_large_declared_size_is_refused_before_its_holes_are_counted(tmp_path):
    with h5py.File(tmp_path/'a.nc', 'w') as f:
        f.create_dataset('ms', (4, 40000, 40000), 'u2', chunks=(1, 1000, 1000))
        f['pan'] = pair()[1]
    def job():
        try: open_scene(tmp_path/'a.nc', 'QB')
        except ValueError as e: return str(e)
    assert 'declares' in within(.5, job)

@pytest.mark.parametrize('nan', ['nan', 'inf', '0', '-1', 'much'])
def test_the_limit_is_a_number(two, monkeypatch, nan):
    monkeypatch.setenv('PANSHARP_NB_MAX_GB', nan)
    refused(two[0], 'set a number', sensor='QB', pan=two[1])

def test_a_mosaic_may_be_large(tmp_path):
    rasterio.shutil.copy(tif(tmp_path/'a.tif', np.ones((1, 6000, 6000), 'uint16'), grid(1)), tmp_path/'a.vrt', driver='VRT')
    assert open_image(tmp_path/'a.vrt').shape==(1, 6000, 6000)

def test_half_precision_is_an_image(tmp_path):
    ms,pan = pair(top=60000)
    with h5py.File(tmp_path/'a.h5', 'w') as f: f['ms'],f['pan'] = ms.astype('f2'),pan.astype('f2')
    with warnings.catch_warnings(action='error', category=RuntimeWarning): assert open_scene(tmp_path/'a.h5', 'QB', bits=16).ms.dtype==np.float32

def test_a_folder_of_matlab_files(tmp_path):
    ms,pan = pair(h=64, w=64)
    for n in range(3): scipy.io.savemat(tmp_path/f'qb_{n}.mat', dict(I_MS=hwc(ms), I_PAN=pan))
    np.savez(tmp_path/'qb_3.npz', ms=ms, pan=pan)
    (tmp_path/'notes.txt').write_text('x', 'utf-8')
    assert [f.name for f in patches.sources(tmp_path)]==['qb_0.mat', 'qb_1.mat', 'qb_2.mat', 'qb_3.npz']
    with warnings.catch_warnings(action='ignore'): assert len(patches.grounds(tmp_path))==4
    for f in tmp_path.iterdir(): f.unlink()
    tif(tmp_path/'a.tif', ms)
    with pytest.raises(ValueError, match='.nc .h5 .hdf5 .mat .npz'): patches.grounds(tmp_path)

def test_a_stack_is_unpacked_as_its_file_says(tmp_path):
    ms,pan = pair(h=32, w=32)
    with h5py.File(tmp_path/'train_qb.h5', 'w') as f:
        f['ms'],f['pan'] = np.stack([hwc(ms)]*3),np.stack([pan]*3)[:, None]
        for k in ('ms', 'pan'): f[k].attrs['scale_factor'] = .5
    with warnings.catch_warnings(action='ignore'):
        g = patches.grounds(tmp_path)
        one = patches._tensors(g[1])
        ds = open_scene(tmp_path/'train_qb.h5', index=1)
    assert len(g)==3 and (one[0][0].numpy()==ds.ms.values).all() and (one[1][0, 0].numpy()==ds.pan.values).all()
    assert np.allclose(ds.ms.values, ms*.5)
