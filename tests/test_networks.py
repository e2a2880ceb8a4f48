"The networks behind one door: listed, counted, called on digital numbers. What every network must do is in `test_baselines.py`."
import json
import pytest, torch
from pansharp_nb.cli import main
from pansharp_nb.data.scenes import open_scene, to_tensors
from pansharp_nb.models import counting
from pansharp_nb.models.networks import as_method, build, five, networks, papers
from pansharp_nb.scoring import catalogue, names
from pansharp_nb.weights import has_weights

small = {'PreMix-B': dict(dim=8), 'PreMix-H': dict(dim=8), 'MFMIF-Net': dict(width=8), 'DCFNet': dict(dim=8), 'SIDP': dict(C=16, N=2),
    'SUM-DUN': dict(d=4, blocks=(1,)*5)}
every = pytest.mark.parametrize('name', five)

def net(name, bands=4, ratio=4, seed=0):
    torch.manual_seed(seed)
    return build(name, bands, ratio, **small[name]).eval()

def pair(bands=4, ratio=4, h=9, w=11, n=1, dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    return torch.rand(n, bands, h, w, generator=g, dtype=dtype), torch.rand(n, 1, ratio*h, ratio*w, generator=g, dtype=dtype)

def test_every_network_is_listed(): assert set(small)==set(five)<set(networks)==set(papers)

@every
def test_gradients_reach_the_weights(name):
    "All but what the network's own page names: see the test file of each."
    f = net(name).train()
    f(*pair(n=2)).square().mean().backward()
    without = [n for n,p in f.named_parameters() if p.grad is None]
    dead = dict(SIDP=('gray.', 'streams.levels.1.pr.')).get(name, ())
    assert all(n.startswith(dead) for n in without), without

@every
def test_macs_as_thop_counts_them(name):
    thop = pytest.importorskip('thop')
    theirs = thop.profile(net(name), pair(h=16, w=16), verbose=False)[0]
    def make(): return build(name, 4, **small[name])
    assert counting.macs_thop(*counting.outline(make, size=64))==theirs

@every
def test_counting_costs_no_memory_and_is_linear(name):
    def make(): return build(name, 4, **small[name])
    a,b = (counting.count(make, size=s) for s in (128, 256))
    assert a['parameters']==b['parameters'] and 3.8<b['macs']/a['macs']<4.1 and 3<b['mib']/a['mib']<4.2

@every
@torch.no_grad()
def test_live_memory_is_what_the_device_would_hold(name):
    "On the CPU, with content, the same peak as on the meta device."
    def make(): return build(name, 4, **small[name])
    a = counting.memory(*counting.outline(make, size=64))
    b = counting.memory(net(name), pair(h=16, w=16))
    assert abs(a-b)<.1*max(a, b)

@every
def test_digital_numbers_in_and_out(name, scenes):
    ms,pan,_ = to_tensors(open_scene(sorted(scenes.glob('WV2*.nc'))[0]))
    ms,pan = ms[..., :12, :12],pan[..., :48, :48]
    for scaling in ('peak', 'scene'):
        x = as_method(net(name, ms.shape[1]), scaling)(ms, pan, 'WV2')
        assert x.shape==(1, ms.shape[1], 48, 48) and x.dtype==ms.dtype and x.isfinite().all()

def test_networks_without_weights_are_listed_but_not_run(capsys):
    cat = catalogue(count=False).set_index('name')
    ready = {n for n in networks if has_weights(n)}
    assert set(names('all')) & set(networks)==ready=={n for n in networks if cat.weights[n]}
    assert all(cat.family[n]=='network' for n in networks)

def test_the_list_for_other_programs(capsys):
    assert main(['methods', '--json'])==0
    rows = json.loads(capsys.readouterr().out)
    assert {tuple(r) for r in rows}=={('name', 'family', 'paper', 'parameters', 'macs', 'weights')}
    assert all(r['parameters']>1e4 and r['macs']>1e9 for r in rows if r['family']=='network')
