"What a layer sees of the whole scene, and networks whose tiles agree with it."
import pickle, pytest, torch
from concurrent.futures import ThreadPoolExecutor
from conftest import net as small_net
from contextlib import nullcontext
from functools import lru_cache
from pansharp_nb import weights
from pansharp_nb.data.scaling import scale_of, start
from pansharp_nb.data.scenes import open_scene, scene_sensor, to_tensors
from pansharp_nb.layers.context import frozen, recording
from pansharp_nb.models import networks
from pansharp_nb.models.baselines.adaptive import LAGNet
from pansharp_nb.models.baselines.pnn import PNN, LambdaPNN
from pansharp_nb.models.mfmif import MFMIFNet
from pansharp_nb.models.networks import build, by_tiles, look
from pansharp_nb.models.premix import PreMixHuge, counted, pair_statistics, statistics_of
from pansharp_nb.models.sidp import SIDP
from pansharp_nb.models.sumdun import SUMDUN

pytestmark = pytest.mark.usefixtures('one_thread')

@lru_cache
def scaled(f, side=512): # a piece of a real scene as networks get it, and the digital numbers of a result
    ds = open_scene(f)
    ms,pan,_ = to_tensors(ds)
    ms,pan = ms[..., :side//4, :side//4],pan[..., :side, :side]
    scale = scale_of(ms, pan, scene_sensor(ds), 'gs')
    return *scale(ms, pan), scale.back

def fused(net, ms, pan, tile, halo, side, **kw):
    with torch.inference_mode(): return by_tiles(start(net, 'gs'), ms, pan, limit=0 if tile else side, tile=tile or side, halo=halo, **kw)

@pytest.mark.parametrize('name,most', [('GPPNN', .002), ('DCFNet', .02)])
def test_shipped_tiles_equal_the_whole(scenes, name, most):
    "Digital numbers, inside of the rim where the 23 taps wrap around; aligned corners, as published, move the pixels of every tile."
    ms,pan,back = scaled(scenes/'IKONOS_imgIK.nc', 320)
    net,card = weights.load(weights.file_of(name, 4))
    published = build(name, 4, **card['knobs'] | dict(corners=True)).eval()
    published.load_state_dict(net.state_dict())
    def gap(net): return (back(fused(net, ms, pan, 128, 48, 320))-back(fused(net, ms, pan, None, 0, 320)))[..., 64:-64, 64:-64].abs().max()
    assert gap(net)<most and gap(published)>1

def seam(d): # where two tiles meet, how far a difference jumps, next to how far it jumps at the other columns of the same phase
    step = (d[..., 1:]-d[..., :-1]).square().mean((0, 1, 2)).sqrt()[15::16]
    k = len(step)//2
    return (step[k]/step[torch.arange(len(step))!=k].median().clamp_min(1e-6)).item()

@pytest.mark.parametrize('name,most,gain,own', [('LAGConv', .1, 5, 5), ('lambda-PNN', .02, 8, 2), ('MFMIF-Net', .1, 10, 2),
    ('SIDP', .001, 0, 0), ('SUM-DUN', 1, 0, 0), ('PreMix-H', .001, 1000, 1.2)])
def test_no_seams(scenes, monkeypatch, name, most, gain, own):
    "A piece in two tiles: how far from the whole, DN, how much further if each tile looks at itself, and what is seen then where they meet (SIDP hears little of its means, SUM-DUN has no seam either way)."
    ms,pan,back = scaled(scenes/'IKONOS_imgIK.nc', 512)
    ms,pan = ms[..., 64:96, 32:96],pan[..., 256:384, 128:384]
    net,_ = weights.load(weights.file_of(name, 4))
    whole = fused(net, ms, pan, None, 0, 256)
    def off(): return back(fused(net, ms, pan, 128, 48, 256))-back(whole)
    ours = off()
    monkeypatch.setattr(networks, 'look', lambda *args: None)
    monkeypatch.setattr(networks, 'frozen', lambda *args: nullcontext())
    theirs = off()
    print(f'{name} {ours.std():.5f} {theirs.std():.5f} {seam(ours):.2f} {seam(theirs):.2f}')
    assert ours.std()<most and ours.std()*gain<theirs.std()
    assert seam(ours)<1.3 and seam(theirs)>own

def pair(h=16, w=16, seed=0, B=2): # noise on [0, 1]
    g = torch.Generator().manual_seed(seed)
    return torch.rand(B, 4, h, w, generator=g),torch.rand(B, 1, 4*h, 4*w, generator=g)

asks = [(LAGNet, 4), (LambdaPNN, 4), (MFMIFNet, 30), (SIDP, 5), (SUMDUN, 5), (PNN, 0), (PreMixHuge, 0)]
@pytest.mark.parametrize('cls', [c for c,_ in asks], ids=lambda c: c.__name__)
def test_a_frozen_whole_is_the_whole(cls):
    "Recorded on the image itself, nothing changes, to the last bit; nor while recording; and another image is then fused otherwise."
    net = small_net(cls, **(dict(bands=None) if cls is SUMDUN else {}))
    (ms,pan),(a,b) = pair(),pair(seed=1)
    with torch.no_grad():
        x = net(ms, pan)
        with recording() as c: y = net(ms, pan)
        c.scene = c.look and c.look(ms, pan)
        with frozen(pickle.loads(pickle.dumps(c))): z = net(ms, pan)
        with frozen(c): other = net(a, b)
        assert torch.equal(x, y) and torch.equal(x, z) and torch.equal(net(ms, pan), x)
    assert bool(c.values or c.look)==(cls is not PNN)
    assert torch.equal(other, net(a, b))==(cls is PNN)

def test_small_images_go_whole_and_windows_are_spread():
    net,(ms,pan) = small_net(LAGNet),pair(40, 72, B=1)
    with torch.no_grad(): assert torch.equal(by_tiles(net, ms, pan, limit=288), net(ms, pan))
    seen = []
    def spy(ms, pan):
        seen.append((*pan.shape[2:], pan[0, 0, 0, 0].item()))
        return net(ms, pan)
    with torch.no_grad(): c = look(spy, ms, pan, 64)
    starts = [(64, 64, pan[0, 0, y, x].item()) for y in (0, 64) for x in (0, 64, 192)] # of 160 x 288 px
    assert seen==starts[:1]+starts and c.n==6 and len(c.values)==4

def test_threads_do_not_share_a_context():
    net = small_net(LAGNet)
    images = [pair(8, 8, i) for i in range(6)]
    def own(image):
        with torch.no_grad(), recording() as c: net(*image)
        with torch.no_grad(), frozen(c): return net(*image)
    with torch.no_grad(): want = [net(*i) for i in images]
    with recording() as outer, ThreadPoolExecutor(3) as pool: got = list(pool.map(own, images))
    assert all(torch.equal(a, b) for a,b in zip(want, got)) and outer.values==[]

def test_histograms_of_windows_add_up():
    "Any cut, any size, either kind; each window is read two MS pixels further than it counts."
    for he,h,w in (('clahe', 29, 22), ('global', 29, 22), ('clahe', 16, 32)):
        ms,pan = pair(h, w)
        total,size = None,pan.shape[2:]
        for y0,y1 in ((0, 9), (9, h)):
            for x0,x1 in ((0, 5), (5, 16), (16, w)):
                a,b,c,d = max(y0-2, 0),min(y1+2, h),max(x0-2, 0),min(x1+2, w)
                inner = slice(4*(y0-a), 4*(y1-a)),slice(4*(x0-c), 4*(x1-c))
                part = counted(ms[..., a:b, c:d], pan[..., 4*a:4*b, 4*c:4*d], size, (4*a, 4*c), inner, he=he)
                total = part if total is None else [s+p for s,p in zip(total, part)]
        for s,want in zip(statistics_of(total, size, he), pair_statistics(ms, pan, he=he)):
            assert torch.equal(s.lut, want.lut) and (s.tile, s.size)==(want.tile, want.size)
