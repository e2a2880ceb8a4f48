"The networks of the five papers, called alike; those they are compared with have a test file a page."
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
@pytest.mark.parametrize('bands,ratio,h,w', [(1, 4, 9, 11), (3, 2, 13, 8), (16, 4, 8, 8), (4, 2, 9, 9)])
@torch.no_grad()
def test_any_bands_ratio_and_size(name, bands, ratio, h, w):
    x = net(name, bands, ratio)(*pair(bands, ratio, h, w))
    assert x.shape==(1, bands, ratio*h, ratio*w) and x.isfinite().all()

@every
def test_wrong_pairs_are_refused(name):
    f,(ms,pan) = net(name),pair()
    with pytest.raises(ValueError, match='at ratio 4'): f(ms, pan[..., :-1])
    with pytest.raises(ValueError, match='one PAN band'): f(ms, pan.expand(-1, 2, -1, -1))
    if name!='SUM-DUN':
        with pytest.raises(ValueError, match='build it with bands=5'): f(*pair(5))

@every
@torch.no_grad()
def test_images_of_a_batch_do_not_meet(name):
    f,(ms,pan) = net(name).double(),pair(n=2, dtype=torch.float64)
    one = torch.cat([f(ms[i:i+1], pan[i:i+1]) for i in range(2)])
    assert (f(ms, pan)-one).abs().max()<1e-10

@every
@torch.no_grad()
def test_inputs_stay_and_runs_repeat(name):
    f,(ms,pan) = net(name),pair()
    a,b = ms.clone(),pan.clone()
    x = f(ms, pan)
    assert torch.equal(ms, a) and torch.equal(pan, b)
    assert torch.equal(f(ms, pan), x) and torch.equal(net(name)(ms, pan), x)

@every
@torch.no_grad()
def test_memory_formats_and_precisions_agree(name):
    f,(ms,pan) = net(name),pair()
    x = f(ms, pan)
    cl = dict(memory_format=torch.channels_last)
    y = f.to(**cl)(ms.to(**cl), pan.to(**cl)) if name!='SUM-DUN' else x
    assert (y-x).abs().max()<1e-4*x.abs().max()
    assert (f.double()(ms.double(), pan.double())-x).abs().max()<1e-3*x.abs().max()
    with torch.autocast('cpu', torch.bfloat16): assert f.float()(ms, pan).isfinite().all()

@every
def test_weights_go_from_one_instance_to_another(name):
    f,g = net(name),net(name, seed=1)
    with torch.no_grad():
        x = f(*pair())
        assert not torch.equal(g(*pair()), x)
        g.load_state_dict(f.state_dict())
        assert torch.equal(g(*pair()), x)

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

@pytest.mark.parametrize('name', [n for n in networks if n not in five])
@torch.no_grad()
def test_the_fields_networks_take_any_pair(name):
    torch.manual_seed(0)
    f,(ms,pan) = build(name, 3).eval(),pair(3, n=2)
    x = f(ms, pan)
    assert x.shape==(2, 3, 36, 44) and x.isfinite().all()
    assert (f(ms[:1], pan[:1])-x[:1]).abs().max()<1e-4*x.abs().max()

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
