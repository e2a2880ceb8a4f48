"What a layer sees of the whole scene, and networks whose tiles agree with it."
import pytest, torch
from functools import lru_cache
from pansharp_nb import weights
from pansharp_nb.data.scaling import scale_of, start
from pansharp_nb.data.scenes import open_scene, scene_sensor, to_tensors
from pansharp_nb.models.networks import build, by_tiles

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
