"AnyPan and the cameras it learns from: what may not matter to it, where it starts, what it may not see."
import numpy as np, pytest, torch, warnings
from pansharp_nb import scoring, training, weights
from pansharp_nb.classical.fitted import apply, back_project, solve
from pansharp_nb.data.cameras import Patches, Strips, camera, invented, lands, softness, views
from pansharp_nb.data.scenes import save_scene
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.metrics.reference import psnr
from pansharp_nb.models.anypan import AnyPan, band_view
from pansharp_nb.recipes import recipe

def shaken(seed=0, **kw):
    torch.manual_seed(seed)
    net = AnyPan(**kw).eval()
    with torch.no_grad():
        for p in net.parameters(): p.add_(.05*torch.randn_like(p))
    return net

def pair(cam='QB', size=128, seed=3): return scoring.pair(made_up(cam, size, seed), dtype=torch.float32)

@torch.no_grad()
def test_untrained_it_is_sfr():
    ms,pan,_,_ = pair()
    f = apply(ms, pan, solve(ms, pan))
    n = f.q.n
    assert (AnyPan()(ms, pan)-(back_project(f.S, f.q.z, n.operator, 1)*n.sd+n.o)).abs().max()<1e-3*ms.max()

@pytest.mark.parametrize('r', [2, 3, 4, 7, 8])
@torch.no_grad()
def test_it_looks_only_where_its_pixels_are_read(r):
    net,rim = shaken(),-(-192//r)*r # as `fuse` reads around a piece
    _,pan,gt,_ = pair(size=480)
    n = (2*rim+64)//r*r
    pan,ms = pan[..., :n, :n],torch.nn.functional.avg_pool2d(gt[..., :n, :n], r)
    k = solve(ms, pan)
    a,b = (net.tile(ms, pan, k, rim=i)[..., rim:-rim, rim:-rim] for i in (0, rim))
    assert (a-b).abs().max()<=1e-5*a.abs().max()

@torch.no_grad()
def test_what_may_not_matter():
    "The order of the bands, the unit, a neighbour in the batch."
    net,(ms,pan,_,_),i = shaken(),pair(seed=5),[2, 0, 3, 1]
    x = net(ms, pan)
    near = 2e-3*x.abs().max()
    assert (net(ms[:, i], pan)-x[:, i]).abs().max()<near and (net(7*ms, 7*pan)/7-x).abs().max()<near
    assert (net(torch.cat([ms, ms.flip(3)]), torch.cat([pan, pan.flip(3)]))[:1]-x).abs().max()<near

@torch.no_grad()
@pytest.mark.parametrize('C,r', [(1, 2), (3, 3), (10, 2), (18, 4), (4, 5)])
def test_any_bands_and_ratio(C, r):
    g = torch.Generator().manual_seed(r)
    ms,pan = (torch.rand(1, c, k*21, k*23, generator=g)*900 for c,k in ((C, 1), (1, r)))
    assert shaken()(ms, pan).shape==(1, C, r*21, r*23)

@torch.no_grad()
@pytest.mark.parametrize('kw', [{}, dict(fold=1, depth=2), dict(fold=4, depth=1)])
def test_tiles_leave_no_seam(kw):
    net,(ms,pan,_,_) = shaken(**kw),pair(size=160)
    v = band_view(ms, pan, solve(ms, pan))
    whole = net.detail(v.x, v.facts, tile=1000)
    assert all((net.detail(v.x, v.facts, tile=t)-whole).abs().max()<1e-4*whole.abs().max() for t in (64, 96))

@torch.no_grad()
def test_what_is_known_matters():
    net,(ms,pan,_,_) = shaken(),pair()
    a,b,c = (net(ms, pan, k) for k in (None, 0., 1.))
    assert not torch.equal(a, b) and not torch.equal(b, c)

def test_nothing_to_see(): # a scene without anything to see
    ms,pan,_,_ = pair()
    with torch.no_grad(): assert all(shaken()(a, b).isfinite().all() for a,b in ((0*ms+3, pan), (ms, 0*pan+3), (0*ms+3, 0*pan+3)))

def test_cameras_differ_and_repeat():
    land = next(invented(('WV2',), 256))
    a,b,c = (camera(land, np.random.default_rng(s)) for s in (1, 1, 2))
    assert all(torch.equal(x, y) for x,y in zip(a, b)) and a[0].shape!=c[0].shape
    for s in range(12):
        ms,pan,truth = camera(land, np.random.default_rng(s))
        r = pan.shape[-1]//ms.shape[-1]
        assert r in (2, 3, 4) and pan.shape[-2:]==truth.shape[-2:]==tuple(r*n for n in ms.shape[-2:])
        assert all(t.isfinite().all() for t in (ms, pan, truth)) and 0<=softness(ms, pan, truth)<=1.2

def test_the_last_eighth_is_never_learned_from():
    land = next(invented(('QB',), 256))
    kept = [k for k in views(land, 0, 2)]
    for k in kept: k.y[:, k.y.shape[1]*7//8:] = float('nan')
    for t in range(30): assert Patches(kept, 30)[t]['y'].isfinite().all()
    for i in range(len(kept)): assert Strips(kept)[i]['y'].isnan().all()

def test_it_learns_and_its_file_fits_all(tmp_path):
    for i,n in enumerate(('QB', 'L8')): save_scene(made_up(n, 192, i).assign_attrs(split='train', licence='CC0-1.0'), tmp_path/f'{n}.nc')
    q = recipe('AnyPan', steps=40, jitter=2)
    f = training.run('AnyPan', q, tmp_path, tmp_path/'run', accelerator='cpu', devices=1, progress=False, save_every=20)
    card = weights.card_of(f)
    assert f.name=='AnyPan-any-rany.safetensors' and card['licence']!='' and len(card['validation'])==2 and card['validation'][-1][1]>0
    net,_ = weights.load(f)
    ms,pan,_,_ = pair('WV3')
    with torch.no_grad(): assert net(ms, pan).shape==(1, 8, 128, 128)

def test_sensors_can_be_left_out(tmp_path):
    for n in ('QB', 'GE1'): save_scene(made_up(n, 128, 1).assign_attrs(split='train'), tmp_path/f'{n}.nc')
    assert {l.g.sensor.name for l in lands(tmp_path, ['QB'])}=={'GE1'}
    with pytest.raises(ValueError, match='give a folder'): lands(tmp_path, ['QB', 'GE1'])

def test_real_scenes(scenes):
    "As it ships: above SFR on the mean, and never below GSA."
    gain = {}
    with warnings.catch_warnings(action='ignore'):
        for ds in scoring.gather(str(scenes))[0]:
            ms,pan,gt,s = scoring.pair(ds, dtype=torch.float32)
            gain[ds.attrs['name']] = [psnr(scoring.method(m)(ms, pan, s).double(), gt.double(), s.peak).item() for m in ('AnyPan', 'SFR', 'GSA')]
    v = np.array(list(gain.values()))
    assert len(v)>5 and (v[:, 0]-v[:, 1]).mean()>.2 and (v[:, 0]-v[:, 2]).min()>0, gain
