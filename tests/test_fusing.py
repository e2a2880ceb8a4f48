"Whole scenes in pieces: the same pixels however they are cut, at the right place, with holes, types and headers kept, and nothing half done."
import json, shutil, signal, subprocess, sys, time, warnings
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
import numpy as np, pytest, rasterio, torch
from rasterio import Affine
from pansharp_nb import fusing, scoring, weights
from pansharp_nb.classical.steps import Seen
from pansharp_nb.classical.injection import haze
from pansharp_nb.cli import main
from pansharp_nb.data.degrade import interp23tap
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.fusing import fuse, plan, prepare, statistics, steps

@pytest.fixture(autouse=True)
def small_machine(one_thread): pass

@lru_cache
def town(size=512, seed=3):
    "A made-up scene: PAN `(1, H, W)`, MS `(4, h, w)`, the truth."
    ds = made_up('IKONOS', size=size, seed=seed)
    return ds.pan.values[None], ds.ms.values, ds.gt.values

def tif(path, a, px=None, x=0, y=0, crs='EPSG:32633', **kw):
    if px: kw |= dict(crs=crs, transform=Affine(px, 0, 5e5+x, 0, -px, 5e6-y))
    with warnings.catch_warnings(), rasterio.open(path, 'w', driver='GTiff', count=len(a), height=a.shape[1], width=a.shape[2], dtype=a.dtype, **kw) as f:
        warnings.simplefilter('ignore')
        f.write(a)
    return str(path)

def by_rpc(path):
    "Some camera model."
    one = dict.fromkeys(('height_off', 'height_scale', 'lat_off', 'lat_scale', 'long_off', 'long_scale', 'line_scale', 'samp_scale'), 1.)
    four = dict.fromkeys(('line_den_coeff', 'line_num_coeff', 'samp_den_coeff', 'samp_num_coeff'), [1.]*20)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with rasterio.open(path, 'r+') as f: f.rpcs = rasterio.rpc.RPC(line_off=100., samp_off=200., **one, **four)
    return path

def read(path):
    with rasterio.open(path) as f: return f.read()

@pytest.fixture
def pair(tmp_path):
    "Two files as the toolbox would place them."
    pan,ms,_ = town()
    return tif(tmp_path/'IKONOS_PAN.tif', pan, 1.), tif(tmp_path/'IKONOS_MS.tif', ms, 4., .5, .5)

# --- A1, A2: however it is cut

@pytest.mark.parametrize('m', list(steps))
def test_pieces_are_the_whole(pair, tmp_path, m):
    "With the same statistics, float32: the method on the whole image, beyond the rim that the toolbox wraps around."
    pan,ms,_ = town()
    t,p = (torch.from_numpy(a.astype('f4'))[None] for a in (ms, pan))
    v,found = Seen(t, p, 'IKONOS'),{}
    if steps[m].haze: found['L'] = haze(v.M)[..., 0].double()
    if steps[m].middle: found |= steps[m].middle(v)
    for look,solve in steps[m].looks: found |= solve(found, *look(v, found))
    x = scoring.method(m)(t, p, 'IKONOS')[0].numpy()
    y = read(fuse(*pair, tmp_path/'o.tif', m, dtype='float32', stats=found, tile=128))
    assert np.abs(x-y)[:, 64:-64, 64:-64].max() < 1e-2

@pytest.mark.parametrize('m', ['Brovey', 'GSA', 'MTF-GLP-HPM-R', 'BDSD', 'BT-H', 'PRACS', 'C-GSA', 'C-MTF-GLP-CBD', 'TV'])
def test_however_it_is_cut(pair, tmp_path, m):
    a = read(fuse(*pair, tmp_path/'a.tif', m, tile=128, jobs=1))
    assert (a==read(fuse(*pair, tmp_path/'b.tif', m, tile=512, jobs=2))).all()
    s = statistics(*pair, m, tile=64)
    w = read(fuse(*pair, tmp_path/'w.tif', m, window=(100, 37, 205, 130), stats=s))
    assert (w==a[:, 37:167, 100:305]).all()

def test_other_processes(pair, tmp_path):
    with ProcessPoolExecutor(1, get_context('spawn')) as pool: a = read(fuse(*pair, tmp_path/'a.tif', 'GSA', executor=pool, tile=256))
    assert (a==read(fuse(*pair, tmp_path/'b.tif', 'GSA'))).all()

def test_a_cluster(pair, tmp_path):
    "Workers of dask are one more executor; on the command line they have an address."
    distributed = pytest.importorskip('distributed')
    with distributed.Client(n_workers=1, threads_per_worker=2, dashboard_address=None, silence_logs=50) as c:
        a = read(fuse(*pair, tmp_path/'a.tif', 'MTF-GLP-HPM-R', executor=c.get_executor(pure=False), tile=256))
        assert main(['fuse', '--method', 'MTF-GLP-HPM-R', '--scheduler', c.scheduler.address, *pair, str(tmp_path/'c.tif')])==0
    b = read(fuse(*pair, tmp_path/'b.tif', 'MTF-GLP-HPM-R'))
    assert (a==b).all() and (read(tmp_path/'c.tif')==b).all()

def test_haze_is_the_quantile(pair):
    "Counted digit by digit, it is what sorting finds."
    w = prepare(*pair, 'BT-H')
    v = fusing._seen(w.job, (0, 0, 512, 512), w.job.plan.far)
    n = v.rim
    assert (statistics(*pair, 'BT-H')['L'][0, :, 0].float()-haze(v.M[..., n:-n, n:-n])[0, :, 0, 0]).abs().max() < 1e-4

@pytest.mark.parametrize('m', ['A-PNN', 'lambda-PNN', 'SFR', 'AnyPan', 'FusionNet'])
def test_networks(tmp_path, m):
    pan,ms,_ = town(256)
    pair = tif(tmp_path/'IKONOS_PAN.tif', pan, 1.),tif(tmp_path/'IKONOS_MS.tif', ms, 4., .5, .5)
    a,b = (read(fuse(*pair, tmp_path/'o.tif', m, tile=t, overwrite=True)).astype(int) for t in (128, 256))
    assert abs(a-b).max()<=1 and (a!=b).mean()<=1e-4

def test_a_network_with_text_is_told_it(pair):
    "And, as one that starts from SFR, it runs over less than SFR has to see."
    w,p = prepare(*pair, 'SUM-DUN'),plan('SUM-DUN', 4, 4)
    with fusing._runner(None, 1, False, True) as run: net = fusing.known(w, run)['net']
    assert net.more['t'].abs().sum()>0 and p.tile==512 and p.halo>fusing._reach('SUM-DUN', 4)

def test_any_scene(tmp_path):
    "Ratio 3, five bands, nobody's sensor, and no method in mind."
    g = torch.Generator().manual_seed(0)
    pan = 500+torch.nn.functional.interpolate(torch.rand(1, 1, 48, 48, generator=g), scale_factor=6, mode='bicubic')[0, 0].numpy()*400
    ms = np.stack([pan.reshape(96, 3, 96, 3).mean((1, 3))*k for k in (.5, .8, 1, 1.2, 2)])
    pair = tif(tmp_path/'p.tif', pan[None].astype('uint16'), 1.),tif(tmp_path/'m.tif', ms.astype('uint16'), 3.)
    assert fusing.preferred()=='AnyPan' and fusing.plan('AnyPan', 5, 3).kind=='frozen'
    x = read(fuse(*pair, tmp_path/'o.tif')).astype(float)
    assert fusing.prepare(*pair).job.plan.method=='AnyPan'
    assert x.shape==(5, 288, 288) and abs(x[2]-pan).mean()<abs(np.kron(ms[2], np.ones((3, 3)))-pan).mean()

def test_the_door(pair, tmp_path):
    import pansharp_nb as ps
    assert ps.fuse is fuse and 'fuse' in dir(ps) and read(ps.fuse(*pair, tmp_path/'o.tif', 'EXP')).shape==(4, 512, 512)

# --- A3, A4, A5: at the right place

def test_the_rim_is_not_wrapped(tmp_path):
    pan,ms,_ = town()
    big = interp23tap(torch.from_numpy(ms.astype('f4'))[None])[0, :, 64:-64, 64:-64].numpy()
    y = read(fuse(tif(tmp_path/'p.tif', pan[:, 64:-64, 64:-64]), tif(tmp_path/'m.tif', ms[:, 16:-16, 16:-16]), tmp_path/'o.tif', 'EXP', dtype='float32', nodata='none'))
    w = interp23tap(torch.from_numpy(ms[:, 16:-16, 16:-16].astype('f4'))[None])[0].numpy()
    rim = np.ones(y.shape[1:], bool)
    rim[8:-8, 8:-8] = False
    def rms(x): return np.sqrt(np.mean((x-big)[:, rim]**2))
    assert rms(y) < .6*rms(w) and np.abs(y-big)[:, 64:-64, 64:-64].max()<1e-2

@pytest.mark.parametrize('r', [2, 4])
@pytest.mark.parametrize('o', [(-.5, 0), (0, .5), (1.25, 3)])
def test_placement(tmp_path, r, o):
    "A smooth world seen by both cameras: fused bands lie on the truth to a twentieth of a pixel."
    n = 256
    def world(y, x): return 500+200*np.sin(.11*x+.3*np.sin(.05*y))*np.cos(.09*y)+80*np.sin(.2*(x+y))
    def axis(k, px, at): return (np.arange(k)+.5)*px+at
    P = world(axis(n, 1, 0)[:, None], axis(n, 1, 0))
    fine = np.stack([world(axis(n, r, o[0])[:, None]+i, axis(n, r, o[1])+j) for i in np.linspace(-.4, .4, 5)*r for j in np.linspace(-.4, .4, 5)*r]).mean(0)[:n//r, :n//r]
    M = np.stack([fine, .7*fine+40])
    out = fuse(tif(tmp_path/'p.tif', P[None].astype('f4'), 1.), tif(tmp_path/'m.tif', M.astype('f4'), float(r), o[1], o[0]), tmp_path/'o.tif', 'EXP')
    with rasterio.open(out) as f: x,t = f.read(1),f.transform
    i,j = round(5e6-t.f),round(t.c-5e5)
    want = P[i:i+x.shape[0], j:j+x.shape[1]]
    c = slice(40, -40)
    gy,gx = np.gradient(x)
    d = np.linalg.lstsq(np.stack([gy[c, c].ravel(), gx[c, c].ravel()], 1), (want-x)[c, c].ravel(), rcond=None)[0]
    assert np.abs(d).max() < .05

def test_gdal_11889(tmp_path):
    "PAN a few pixels larger than MS."
    pan,ms,_ = town()
    out = fuse(tif(tmp_path/'p.tif', pan[:, :420, :439], .5), tif(tmp_path/'m.tif', ms[:, :104, :109], 2.), tmp_path/'o.tif', 'Brovey')
    x = read(out)
    assert x.shape==(4, 416, 436) and (x.max((0, 2))>0).all()

def test_whole_pan(pair, tmp_path):
    pan,ms,_ = town()
    m = tif(tmp_path/'small.tif', ms[:, 16:-16, 16:-16], 4., 64.5, 64.5)
    a,b = (read(fuse(pair[0], m, tmp_path/'o.tif', 'GSA', extent=e, overwrite=True)) for e in ('pan', 'intersection'))
    assert a.shape==(4, 512, 512) and (a[:, 64:-64, 64:-64]==b).all() and not a[:, :64].any() and not a[..., -64:].any()

def test_declared_and_seen(pair, tmp_path):
    "An offset that is not there is said, and measured if asked for."
    pan,ms,_ = town()
    m = tif(tmp_path/'m.tif', ms, 4., 2.5, .5)
    with pytest.warns(UserWarning, match='--align measure'): fuse(pair[0], m, tmp_path/'o.tif', 'EXP')
    w = prepare(pair[0], m, align='measure')
    assert abs(w.job.by[1]*4-(0+2)) < .4

# --- A6, A7: holes and types

def marked(d, how, nd=-9999):
    "A turned collar without data, marked in one of six ways."
    pan,ms,_ = town()
    y,x = np.mgrid[:128, :128]
    gone = np.abs(.8*(x-64)+.6*(y-64))+np.abs(.6*(x-64)-.8*(y-64)) > 70
    wide = gone.repeat(4, 0).repeat(4, 1)
    ms,pan = np.maximum(ms, 1),np.maximum(pan, 1)
    kw = {}
    if how in ('0', '0 declared'): ms,pan,kw = np.where(gone, 0, ms),np.where(wide, 0, pan),dict(nodata=0) if how!='0' else {}
    elif how=='int16': ms,pan,kw = np.where(gone, nd, ms).astype('i2'),np.where(wide, nd, pan).astype('i2'),dict(nodata=nd)
    elif how=='nan': ms,pan,kw = np.where(gone, np.nan, ms).astype('f4'),np.where(wide, np.nan, pan).astype('f4'),dict(nodata=np.nan)
    elif how=='alpha': ms = np.concatenate([ms, np.where(gone, 0, 65535)[None].astype(ms.dtype)])
    P,M = tif(d/'p.tif', pan.astype(pan.dtype), 1., **kw),tif(d/'IKONOS_m.tif', ms.astype(ms.dtype), 4., .5, .5, **kw)
    if how=='alpha':
        with rasterio.open(M, 'r+') as f: f.colorinterp = [*f.colorinterp[:4], rasterio.enums.ColorInterp.alpha]
    if how=='mask':
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(M, 'r+') as f: f.write_mask(~gone)
    return P, M, wide

@pytest.mark.parametrize('how', ['0', '0 declared', 'int16', 'nan', 'alpha', 'mask'])
def test_a_collar(tmp_path, how):
    P,M,wide = marked(tmp_path, how)
    with rasterio.open(fuse(P, M, tmp_path/'o.tif', 'GSA', tile=128)) as f: x,seen,nd = f.read(),f.read_masks()>0,f.nodata
    if nd is None: assert (seen==~wide).all()
    else: assert ((np.isnan(x) if nd!=nd else x==nd)==wide).all()
    found = statistics(P, M, 'GSA')
    whole = read(fuse(*[tif(tmp_path/f'{n}.tif', a, *k) for n,a,k in (('a', np.maximum(town()[0], 1), (1.,)), ('IKONOS_b', np.maximum(town()[1], 1), (4., .5, .5)))], tmp_path/'w.tif', 'GSA', stats=found))
    from scipy.ndimage import distance_transform_edt
    far = distance_transform_edt(~wide)>48
    assert far.sum()>1e4 and np.abs(np.maximum(x, 1).astype('f8')-whole)[:, far].max() <= 1 # the whole cannot be negative

def test_statistics_see_valid_pixels_only(tmp_path):
    P,M,wide = marked(tmp_path, 'mask')
    job = prepare(P, M, 'GSA').job
    v = fusing._seen(job, (0, 0, 512, 512), job.plan.far)
    m = v.sums(v.M, v.pan)
    n = v.rim
    z = torch.cat([v.M, v.pan], 1)[0, :, n:-n, n:-n][:, torch.from_numpy(~wide)].double()
    assert (m.cov[0]/torch.cov(z)-1).abs().max()<1e-6 and m.n.item()==(~wide).sum()

def test_the_wide_hole_does_not_depend_on_the_cut(tmp_path):
    P,M,_ = marked(tmp_path, '0')
    a,b = (read(fuse(P, M, tmp_path/'o.tif', 'MTF-GLP-HPM-R', tile=t, overwrite=True)) for t in (64, 512))
    assert (a==b).all()

@pytest.mark.parametrize('dtype,lo,hi', [('uint8', 0, 255), ('uint16', 60000, 65535), ('int16', -3000, 3000), ('float32', 0, 1)])
def test_types(tmp_path, dtype, lo, hi):
    "A bright edge never wraps around."
    pan,ms,_ = (a.astype('f8') for a in town())
    def scaled(a): return np.clip((a-a.min())/np.quantile(a-a.min(), .9)*(hi-lo)+lo, lo, hi)
    P,M = (tif(tmp_path/n, scaled(a).astype(dtype), px) for n,a,px in (('p.tif', pan, 1.), ('m.tif', ms, 4.)))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        x,y = (read(fuse(P, M, tmp_path/'o.tif', 'GSA', nodata='none', dtype=t, overwrite=True)).astype('f8') for t in (None, 'float32'))
    i = np.iinfo(dtype) if dtype!='float32' else None
    assert np.abs(x-(np.clip(np.floor(y+.5), i.min, i.max) if i else y)).max()<1e-6

def test_bit_depth(pair, tmp_path):
    with pytest.warns(UserWarning, match='clipped'): x = read(fuse(*pair, tmp_path/'o.tif', 'GSA', bit_depth=9))
    assert x.max()==511

def test_no_true_pixel_is_nodata(tmp_path):
    pan,ms,_ = town()
    ms = ms.copy()
    ms[0, 40:60, 40:60] = 0
    x = read(fuse(tif(tmp_path/'p.tif', pan, 1., nodata=0), tif(tmp_path/'m.tif', ms, 4., .5, .5, nodata=0), tmp_path/'o.tif', 'Brovey'))
    assert (x>0).all() and (x==1).any()

# --- A10, A11: all or nothing, and what is kept

def parts(d): return [p for p in d.iterdir() if '.part' in p.name]

def test_an_exception_leaves_the_old_file(pair, tmp_path, monkeypatch):
    out = tmp_path/'o.tif'
    out.write_bytes(b'old')
    real,calls = fusing._apply,[]
    def third(*a):
        calls.append(1)
        if len(calls)==3: raise RuntimeError('third tile')
        return real(*a)
    monkeypatch.setattr(fusing, '_apply', third)
    with pytest.raises(RuntimeError, match='third'): fuse(*pair, out, 'Brovey', tile=128, overwrite=True)
    assert out.read_bytes()==b'old' and not parts(tmp_path)
    monkeypatch.setattr(fusing, '_apply', real)
    assert read(fuse(*pair, out, 'Brovey', overwrite=True)).shape==(4, 512, 512)

@pytest.mark.parametrize('sig', [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_killed(tmp_path, sig):
    pan,ms,_ = town()
    P,M = tif(tmp_path/'p.tif', np.tile(pan, (1, 4, 4)), 1.),tif(tmp_path/'m.tif', np.tile(ms, (1, 4, 4)), 4., .5, .5)
    p = subprocess.Popen([sys.executable, '-c', 'import sys; from pansharp_nb.cli import main; sys.exit(main())', 'fuse', '--method', 'EXP', '--tile', '64', P, M, str(tmp_path/'o.tif')],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    for _ in range(600):
        if parts(tmp_path) or p.poll() is not None: break
        time.sleep(.05)
    p.send_signal(sig)
    said = p.communicate(timeout=60)[1].decode()
    assert p.returncode!=0 and not (tmp_path/'o.tif').exists() and 'Traceback' not in said
    assert bool(parts(tmp_path))==(sig==signal.SIGKILL)

@pytest.mark.skipif(sys.platform=='win32', reason='no such limit here')
@pytest.mark.parametrize('less,how', [(9, ()), (2, ()), (0, ()), (0, ('--cog',)), (0, ('--overviews',))])
def test_a_full_disk(pair, tmp_path, less, how):
    "A file that may not grow, in the middle or as it is closed: one line that says what to do, and nothing is left."
    n = fuse(*pair, tmp_path/'a.tif', 'EXP', cog='--cog' in how, overviews='--overviews' in how, sensor='IKONOS').stat().st_size
    limit = n-50-less*n//10
    code = f'import resource, sys; from pansharp_nb.cli import main; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); sys.exit(main())'
    p = subprocess.run([sys.executable, '-c', code, 'fuse', '--method', 'EXP', '--quiet', *how, *pair, str(tmp_path/'o.tif')], capture_output=True, text=True)
    assert p.returncode==1 and 'make room, or choose another folder' in p.stderr.splitlines()[-1] and 'Traceback' not in p.stderr, p.stderr
    assert not (tmp_path/'o.tif').exists() and not parts(tmp_path)

def test_headers(tmp_path):
    pan,ms,_ = town()
    P,M = tif(tmp_path/'p.tif', pan, .5),tif(tmp_path/'m.tif', ms, 2., 8.25, 4.25, nodata=0)
    by_rpc(P)
    with rasterio.open(M, 'r+') as f:
        f.descriptions,f.scales,f.offsets,f.units = ('blue', 'green', 'red', 'nir'),(.1, .2, .3, .4),(1, 2, 3, 4),('a', 'b', 'c', 'd')
        f.update_tags(2, STATISTICS_MEAN='7', mine='yes')
        f.update_tags(owner='me')
    out = fuse(P, M, tmp_path/'o.tif', 'Brovey', bands='R,G,B', sensor='IKONOS')
    with rasterio.open(out) as f, rasterio.open(P) as g:
        assert f.crs==g.crs and f.transform==g.transform*Affine.translation(16, 8)
        assert (f.descriptions, f.scales, f.offsets, f.units)==(('red', 'green', 'blue'), (.3, .2, .1), (3, 2, 1), ('c', 'b', 'a'))
        assert f.tags(2)['mine']=='yes' and 'STATISTICS_MEAN' not in f.tags(2) and f.tags()['owner']=='me' and 'Brovey' in f.tags()['PANSHARP_NB']
        assert (f.rpcs.line_off, f.rpcs.samp_off)==(92, 184) and f.nodata==0
        assert f.profile['tiled'] and f.profile['compress']=='deflate'
    assert not list(tmp_path.glob('*.aux.xml'))
    x,y = read(out),read(fuse(P, M, tmp_path/'all.tif', 'Brovey', sensor='IKONOS'))
    assert (x==y[[2, 1, 0]]).all()
    if shutil.which('gdalinfo'):
        said = json.loads(subprocess.run(['gdalinfo', '-json', out], capture_output=True, check=True).stdout)
        assert said['size']==[496, 504] and said['geoTransform'][0]==5e5+8 and [b['colorInterpretation'] for b in said['bands']][0]!='Alpha'
        assert [b['description'] for b in said['bands']]==['red', 'green', 'blue'] and said['metadata']['']['owner']=='me' and 'RPC' in said['metadata']
    with rasterio.open(fuse(P, M, tmp_path/'c.tif', 'Brovey', cog=True, sensor='IKONOS')) as f: assert f.tags(ns='IMAGE_STRUCTURE')['LAYOUT']=='COG' and (f.read()==y).all()

def test_bands_in_many_files(pair, tmp_path):
    pan,ms,_ = town()
    files = [tif(tmp_path/f'b{i}.tif', ms[i:i+1], 4., .5, .5) for i in range(2)] + [f'{pair[1]},band=3', f'{pair[1]},band=4']
    a,b = (read(fuse(pair[0], m, tmp_path/'o.tif', 'GSA', sensor='IKONOS', overwrite=True)) for m in (files, pair[1]))
    assert (a==b).all()

# --- A12: every line

def lines(capsys, tmp_path, *args):
    n,t = sorted(tmp_path.iterdir()),time.time()
    code = main(['fuse', *map(str, args)])
    said = capsys.readouterr().err.strip().splitlines()
    assert sorted(tmp_path.iterdir())==n and time.time()-t<3 and said and not any('Traceback' in s for s in said)
    return code, said[-1]

def test_wrong_calls(pair, tmp_path, capsys):
    pan,ms,_ = town()
    P,M = pair
    out = tmp_path/'o.tif'
    (old := tmp_path/'old.tif').write_bytes(b'x')
    def m(name, a=ms, px=4., **kw): return tif(tmp_path/name, a, px, **kw)
    empty = [tif(tmp_path/'e_p.tif', 0*pan, 1.), m('e_m.tif', 0*ms)]
    holes = ms.astype('f4')
    holes[0, 5, 7] = np.inf
    sizes = tif(tmp_path/'bare.tif', ms[:, 1:])
    cases = [(2, 'exists: choose another name, or --overwrite', (P, M, old)), (2, 'also an input', (P, M, P, '--overwrite')), (2, 'no folder', (P, M, tmp_path/'no'/'o.tif')),
        (2, 'did you mean', ('--method', 'GSSA', P, M, out)), (1, 'not readable as a raster', (tmp_path/'nix.tif', M, out)),
        (2, 'MS.tif has 4 bands, PAN has one: PAN comes first, then MS', (M, P, out)), (2, 'no finer', (P, P, out)),
        (2, 'gdalwarp -tr', (P, m('r.tif', px=4.2), out)), (2, 'classical methods double', ('--method', 'GSA', P, m('s.tif', ms[:, :90, :90], px=3.), out)),
        (2, 'gdalwarp -t_srs EPSG:32633', (P, m('c.tif', crs='EPSG:32634'), out)), (2, 'only PAN is georeferenced', (P, tif(tmp_path/'u.tif', ms), out)),
        (2, 'crop both to the same ground', (tif(tmp_path/'v.tif', pan), sizes, out)), (2, 'share no ground', (P, m('f.tif', x=1e5), out)),
        (2, 'another grid', (P, M, m('g.tif', x=40), out)), (1, 'no valid pixel in common', ('--method', 'GSA', *empty, out)), (1, 'no valid pixel', ('--method', 'EXP', *empty, out)),
        (1, 'infinity at 1 pixels, first at row 5 column 7', ('--method', 'GSA', P, m('h.tif', holes, x=.5, y=.5), out)),
        (2, 'pass weights', ('--method', 'TV', '--sensor', 'QB', P, M, out)), (2, 'has no weights for 3 bands', ('--method', 'PreMix-B', P, m('3.tif', ms[:3]), out)),
        (2, 'turned by 1.2 degrees', (P, m('t.tif', px=None, crs='EPSG:32633', transform=Affine.translation(5e5, 5e6)*Affine.rotation(-1.2)*Affine.scale(4, -4)), out)),
        (2, 'georeferenced by RPC only and 512 x 512 is not 4 x 128 x 127: orthorectify both first', (by_rpc(tif(tmp_path/'w.tif', pan)), by_rpc(tif(tmp_path/'y.tif', ms[:, 1:])), out)),
        (2, 'no band', ('--bands', 'X', '--method', 'EXP', P, M, out)), (2, 'multiple of 64', ('--tile', '100', '--method', 'EXP', P, M, out)),
        (2, 'leaves the', ('--window', '0,0,600,9', '--method', 'EXP', P, M, out)), (2, 'auto, none or a number', ('--nodata', 'x', P, M, out))]
    for code,said,args in cases:
        got = lines(capsys, tmp_path, *args)
        assert got[0]==code and said in got[1], (args, got)

def test_without_weights(pair, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(weights, 'has_weights', lambda *_: False)
    code,said = lines(capsys, tmp_path, '--method', 'PNN', *pair, tmp_path/'o.tif')
    assert code==2 and 'PNN has no trained weights here' in said

def test_too_little_room(pair, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fusing.shutil, 'disk_usage', lambda d: shutil._ntuple_diskusage(10**9, 10**9, 10**5))
    code,said = lines(capsys, tmp_path, '--method', 'EXP', *pair, tmp_path/'o.tif')
    assert code==1 and 'needs up to' in said and '0.0 GB are free' in said

@pytest.mark.parametrize('e', [MemoryError(), RuntimeError('DefaultCPUAllocator: can\'t allocate memory: you tried to allocate 99 bytes')])
def test_too_little_memory(pair, tmp_path, capsys, monkeypatch, e):
    def none(*_): raise e
    monkeypatch.setattr(fusing, '_apply', none)
    code,said = lines(capsys, tmp_path, '--method', 'EXP', *pair, tmp_path/'o.tif')
    assert code==1 and said.endswith('out of memory with tiles of 1024 px: --tile 512, or --jobs 1')

def test_a_large_scene_is_not_for_every_method(tmp_path, capsys):
    pan,ms,_ = town()
    P,M = tif(tmp_path/'p.tif', np.tile(pan, (1, 3, 1)), 1.),tif(tmp_path/'m.tif', np.tile(ms, (1, 3, 1)), 4.)
    code,said = lines(capsys, tmp_path, '--method', 'SR-D', P, M, tmp_path/'o.tif')
    assert code==2 and 'crop, or --approximate' in said

def test_a_wrong_call_is_answered_before_torch(pair, tmp_path):
    code = f'import sys; from pansharp_nb.cli import main; c = main(["fuse", {pair[1]!r}, {pair[0]!r}, "o.tif"]); sys.exit(c if "torch" not in sys.modules else 9)'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, cwd=tmp_path).returncode==2

def test_command(pair, tmp_path, capsys):
    out = tmp_path/'o.tif'
    assert main(['fuse', *pair, str(out)])==0
    got = capsys.readouterr()
    assert got.out.strip()==str(out) and 'ratio 4; 512 x 512 PAN px in common' in got.err
    assert main(['fuse', '--plan', '--method', 'pracs', *pair, str(tmp_path/'x.tif')])==0 and '"passes": 3' in capsys.readouterr().out
    assert plan('gsa').method=='GSA' and plan('SR-D').kind=='blocks'
    w = tmp_path/'w.tif'
    assert main(['fuse', '--bbox', '500010,4999900,500110,4999980', *pair, str(w)])==0
    with rasterio.open(w) as f: assert f.shape==(80, 100) and (f.read()==read(out)[:, 20:100, 10:110]).all()

def test_scene_file(scenes, tmp_path, capsys):
    f = scenes/'IKONOS_imgIK.nc'
    if not f.exists(): pytest.skip('no IKONOS here')
    assert main(['fuse', '--method', 'GSA', '--window', '64,64,256,256', str(f), str(tmp_path/'o.tif')])==0
    assert read(tmp_path/'o.tif').shape==(4, 256, 256)
