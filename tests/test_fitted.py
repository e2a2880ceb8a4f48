"The scene-fitted regression: its ways up and down against libraries, what a scene may and may not change, real scenes."
import numpy as np, pytest, scipy.ndimage, torch, torch.nn.functional as F, warnings
from pansharp_nb import scoring
from pansharp_nb.classical.fitted import apply, back_project, calibrated, enlarge, kappa_of, operator_of, operators, sfr, shrink, solve
from pansharp_nb.data.scenes import open_scene, scene_sensor, to_tensors, trim_nodata
from pansharp_nb.data.sensors import sensors
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.metrics.reference import psnr

def pair(cam='QB', size=128, seed=3, dtype=torch.float64):
    ms,pan,gt,_ = scoring.pair(made_up(cam, size, seed), dtype=dtype)
    return ms, pan, gt

@pytest.mark.parametrize('r', [2, 3, 4, 5, 8])
@pytest.mark.parametrize('by', [(0., 0.), (-.125, .3)])
def test_enlarging_is_lanczos(r, by):
    x = torch.rand(1, 2, 9, 53, dtype=torch.double)
    def axis(n, s): # the definition, sample by sample
        M = np.zeros((r*n, n))
        for j in range(r*n):
            c = (j+.5)/r-.5+s
            k = np.arange(int(np.floor(c))-7, int(np.floor(c))+9)
            w = np.sinc(c-k)*np.sinc((c-k)/6)*(abs(c-k)<6)
            np.add.at(M[j], np.where((m := k%(2*n))<n, m, 2*n-1-m), w/w.sum())
        return torch.from_numpy(M)
    want = axis(9, by[0]) @ x @ axis(53, by[1]).T
    assert (enlarge(x, r, by)-want).abs().max()<1e-12

@pytest.mark.parametrize('r', [2, 3, 4, 6])
def test_shrinking_is_what_it_is_called(r):
    x = torch.rand(1, 2, 60*r, 51*r, dtype=torch.double)
    inner = ..., slice(6, -6), slice(6, -6)
    kw = dict(size=(60, 51), align_corners=False)
    assert (shrink(x, 'box', r)-F.avg_pool2d(x, r)).abs().max()<1e-12
    assert (shrink(x, 'none', r)-F.interpolate(x, mode='bilinear', **kw)).abs().max()<1e-12
    assert (shrink(x, 'bicubic', r)-F.interpolate(x, mode='bicubic', antialias=True, **kw))[inner].abs().max()<1e-12

@pytest.mark.parametrize('gain', [.15, .3, .5])
@pytest.mark.parametrize('r', [2, 3, 4])
def test_a_gaussian_has_the_gain_it_is_named_after(gain, r):
    "A cosine at the Nyquist frequency of MS, seen through it; averaging the two pixels in the middle costs a little more."
    t = torch.arange(64*r, dtype=torch.double)
    wave = torch.cos(torch.pi*(t-(r-1)/2)/r).expand(1, 1, 8*r, -1)
    y = shrink(wave, f'{gain:g}', r)[..., 20:-20].abs().mean().item()
    assert abs(y/gain/(np.cos(np.pi/(2*r)) if r%2==0 else 1)-1)<.02

def test_back_projection_agrees_with_ms():
    ms,pan,_ = pair()
    x = scoring.method('GSA')(ms, pan, 'QB')
    for o in operators:
        far = [(shrink(v, o, 4)-ms).square().mean().item() for v in (x, back_project(x, ms, o), back_project(x, ms, o, 20))]
        assert far[2]<far[1]<far[0] if o!='none' else far[0]==far[1]

def test_the_operator_is_found():
    "PAN made of the bands, and MS by one of the ten; neighbours look alike."
    truth = pair('IKONOS', 256)[2]
    for o in ('0.15', '0.3', '0.5', 'none'):
        got = operator_of(shrink(truth, o, 4), truth.mean(1, keepdim=True))[0]
        assert abs(operators.index(got)-operators.index(o))<=(1 if o!='none' else 0), (o, got)

def test_kappa_is_found():
    p = pair('WV2', 256)[1]
    for s in (0., .4, .7, 1.):
        soft = torch.from_numpy(scipy.ndimage.gaussian_filter(p[0, 0].numpy(), s))[None, None] if s else p
        z = (torch.cat([soft, soft*2], 1)-soft.mean())/soft.std()
        assert abs(kappa_of(z, (p-p.mean())/p.std())-s)<.1

def test_what_may_not_matter():
    "The order of the bands, the unit, a neighbour in the batch, the number type; the name of a sensor whose softness nobody measured."
    ms,pan,_ = pair(seed=5)
    x,i = sfr(ms, pan, 'IKONOS'),[2, 0, 3, 1]
    near = 1e-6*x.abs().max()
    assert (sfr(ms[:, i], pan)-x[:, i]).abs().max()<near and (sfr(7*ms, 7*pan)/7-x).abs().max()<near
    assert (sfr(torch.cat([ms, ms.flip(3)]), torch.cat([pan, pan.flip(3)]))[:1]-x).abs().max()<near
    assert (sfr(ms.float(), pan.float()).double()-x).abs().max()<1e-3*x.abs().max() and (sfr(ms, pan)==x).all()
    assert (sfr(ms, pan, 'GF2')==sfr(ms, pan, kappa=sensors['GF2'].kappa)).all() and (sfr(ms, pan, 'GF2', 'pair')==x).all()

def test_pan_may_have_a_unit_of_its_own():
    ms,pan,_ = pair(seed=6)
    assert (sfr(ms, 3*pan+40)-sfr(ms, pan)).abs().max()<1e-6*ms.max()

@pytest.mark.parametrize('r', [2, 3, 5, 8])
def test_any_ratio_and_too_few_pixels(r):
    g = torch.Generator().manual_seed(r)
    ms,pan = torch.rand(1, 3, 3*r, 5*r, generator=g)*900,torch.rand(1, 1, 3*r*r, 5*r*r, generator=g)*900
    with pytest.warns(UserWarning, match='too few to fit'): assert sfr(ms, pan).isfinite().all()

@pytest.mark.parametrize('flat', ['ms', 'pan', 'both', 'band'])
def test_nothing_to_see(flat):
    ms,pan,_ = pair()
    if flat in ('ms', 'both'): ms = torch.full_like(ms, 300)
    if flat in ('pan', 'both'): pan = torch.full_like(pan, 300)
    if flat=='band': ms[:, 1] = 250
    x = sfr(ms, pan)
    assert x.isfinite().all() and (flat!='both' or (x-300).abs().max()<1e-3)
    if flat in ('ms', 'band'): assert (x[:, 1]-ms[0, 1, 0, 0]).abs().max()<1e-2

def test_no_reference_is_seen():
    "Scores change with a reference, images do not; a made-up scene of a satellite has not its softness."
    ds = made_up('GF2', 128, 3)
    other = ds.assign(gt=ds.gt*0+7)
    with warnings.catch_warnings(action='ignore'):
        images = [dict() for _ in range(2)]
        for d,keep in zip((ds, other), images): scoring.score(d, methods=['SFR', 'AnyPan'], keep=keep)
    assert all((images[0][m]==images[1][m]).all() for m in images[0]) and scoring.pair(ds)[3].kappa is None

def test_the_softness_of_a_sensor_is_that_of_its_train_scenes(scenes):
    found = {}
    with warnings.catch_warnings(action='ignore'):
        for f in sorted(scenes.glob('*.nc')):
            if f.stem.startswith('NAIP'): continue
            ds = open_scene(f)
            a,s = ds.attrs,scene_sensor(ds)
            if a['split']!='train' or a['kind']!='full_resolution_pair' or a['bit_depth']==8 or s.kappa is None: continue
            ms,pan,_ = to_tensors(trim_nodata(ds))
            q = calibrated(ms[..., :400, :400], pan[..., :400*s.ratio, :400*s.ratio])
            found.setdefault(s.name, []).append(kappa_of(q.z, shrink(q.p, 'bicubic', q.n.r)))
    assert set(found)=={n for n,s in sensors.items() if s.kappa is not None}
    assert all(abs(np.median(v)-sensors[n].kappa)<.02 for n,v in found.items()), found

def test_a_pair_is_where_it_was(): # standardised there and back
    ms,pan,_ = pair()
    q = calibrated(ms, pan)
    assert q.n.r==4 and q.z.shape==ms.shape and abs(q.p.std()-1)<1e-6 and (q.U.mean((2, 3)).abs()<.05).all()

@pytest.mark.parametrize('cam', ['QB', 'L8'])
def test_tiles_are_the_scene(cam):
    "What is known of the scene, and a tile with some ground around it, give the pixels of the whole."
    ms,pan,_ = pair(cam, 512)
    r = pan.shape[-1]//ms.shape[-1]
    n = solve(ms, pan)
    whole,halo,side = sfr(ms, pan),128//r,128//r
    for y,x in ((0, 0), (1, 2), (3, 3)):
        a,b = y*side,x*side
        i,j = max(0, a-halo),max(0, b-halo)
        part = apply(ms[..., i:a+side+halo, j:b+side+halo], pan[..., r*i:r*(a+side+halo), r*j:r*(b+side+halo)], n).digital()
        part = part[..., r*(a-i):r*(a-i+side), r*(b-j):r*(b-j+side)]
        assert (part-whole[..., r*a:r*(a+side), r*b:r*(b+side)]).abs().max()<2e-2

def test_real_scenes(scenes):
    "Far above GSA on the mean, never far below; no reference is seen, so none can help."
    gain = {}
    with warnings.catch_warnings(action='ignore'):
        for ds in scoring.gather(str(scenes))[0]:
            ms,pan,gt,s = scoring.pair(ds, dtype=torch.float32)
            a,b = (psnr(scoring.method(m)(ms, pan, s).double(), gt.double(), s.peak).item() for m in ('SFR', 'GSA'))
            gain[ds.attrs['name']] = a-b
    assert len(gain)>5 and np.mean(list(gain.values()))>2 and min(gain.values())>-.6, gain
