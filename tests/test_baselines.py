"What every network does, the five papers' and the field's: any pair, any way to call it, and learning. What one alone does is in its own file."
import pytest, torch, torch.nn.functional as F
from conftest import net, pair, small
from pansharp_nb.data.scenes import to_tensors
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.losses import l1, l2
from pansharp_nb.models.baselines.pgcu import PGCU
from pansharp_nb.models.networks import five, networks

pytestmark = pytest.mark.usefixtures('one_thread')
classes = {c.__name__: c for c in (*networks.values(), PGCU) if not getattr(c, 'whole', False)} # AnyPan looks at scenes: test_anypan.py
every = pytest.mark.parametrize('cls', classes.values())
field = pytest.mark.parametrize('cls', [c for c in classes.values() if c not in [networks[n] for n in five]])
last = dict(memory_format=torch.channels_last)

def gap(x, y):
    "Largest difference, for a faint image in relation to it."
    return (x-y).abs().max()/y.abs().max().clamp(max=1)

def test_every_network_is_here(): assert set(small)==set(classes)

# what a network cannot take: ratios, and PAN sides that are too short for mirrored borders or for the tiles of an equalisation
ratios = dict(BDPN=(1, 3), MFMIFNet=(1, 3), SUMDUN=(1, 3), PGCU=(3,), PanNetPGCU=(3,), DCFNet=(3,), PanNet=(1,), ADKNet=(1,))
sides = dict(LambdaPNN=3, PreMixHuge=8)
pairs = [(1, 4, 5, 7), (3, 2, 7, 9), (8, 8, 3, 2), (16, 4, 1, 1), (4, 3, 5, 3), (4, 1, 17, 16), (2, 16, 2, 1), (4, 2, 2, 2), (16, 2, 1, 6),
    (16, 2, 5, 5), (4, 4, 9, 7)]
fitting = [(c, *p) for n,c in classes.items() for p in pairs if p[1] not in ratios.get(n, ()) and p[1]*min(p[2:])>sides.get(n, 0)]

@pytest.mark.parametrize('cls,bands,r,h,w', fitting)
@torch.no_grad()
def test_any_pair(cls, bands, r, h, w):
    "Finite, in the size and type of the pair, which stays as it was; images of a batch do not meet."
    f,(ms,pan) = net(cls, bands, ratio=r),pair(bands, h, w, r)
    was = ms.clone(),pan.clone()
    x = f(ms, pan)
    assert x.shape==(2, bands, r*h, r*w) and x.dtype==torch.float32 and x.isfinite().all()
    assert torch.equal(ms, was[0]) and torch.equal(pan, was[1])
    ms,pan = ms.double(),pan.double()
    y = f.double()(ms, pan)
    assert y.dtype==torch.float64
    assert gap(x, y)<(1e-3 if cls.__name__=='MSDDN' and max(pan.shape[2:])<12 else 1e-5) # so small, bins are empty and their phase is any
    assert gap(torch.cat([f(*z) for z in zip(ms.split(1), pan.split(1))]), y)<1e-12

@every
def test_wrong_pairs_are_refused(cls):
    f,(ms,pan) = net(cls),pair()
    wrong = [(ms, pan[..., 1:], 'at ratio 4 .* wants a PAN of'), (ms, ms, 'one PAN band'), (ms, pan.expand(-1, 2, -1, -1), 'one PAN band')]
    wrong += [(m, p, 'the batch of ms') for m,p in ((ms[:1], pan), (ms, pan[:1]))] + [(ms[0], p, r'want ms \(B, C, h, w\)') for p in (pan, pan[0])]
    if cls.__name__!='SUMDUN': wrong += [(pair(c)[0], pan, f'built for 4 bands, got {c}: build it with bands={c}') for c in (3, 5)] # any bands
    for m,p,why in wrong:
        with pytest.raises(ValueError, match=why): f(m, p)

@every
@torch.no_grad()
def test_both_images_count_and_nothing_else(cls):
    f,(ms,pan) = net(cls),pair()
    x = f(ms, pan)
    assert not torch.equal(f(0*ms, pan), x) and not torch.equal(f(ms, 0*pan), x)
    assert torch.equal(f(ms, pan), x) and torch.equal(net(cls)(ms, pan), x)

@every
@torch.no_grad()
def test_memory_formats_agree(cls):
    f,(ms,pan) = net(cls),pair()
    x,a,b = f(ms, pan),ms.to(**last),pan.to(**last)
    assert gap(f(a, b), x)<1e-5
    if cls.__name__=='SUMDUN': return # its weights have five dimensions: see its own file
    f.to(**last)
    for m,p in ((ms, pan), (a, b), (a, pan)): assert gap(f(m, p), x)<1e-5

@every
def test_autocast(cls):
    "Near the whole precision, and with gradients that are finite."
    f,(ms,pan) = net(cls),pair()
    with torch.autocast('cpu', torch.bfloat16): y = f(ms, pan)
    y.float().square().mean().backward()
    with torch.no_grad(): x = f(ms, pan)
    d = (y.float()-x).abs()/x.abs().max()
    assert y.shape==x.shape and d.max()<.03 and d.mean()<.01
    assert all(p.grad.isfinite().all() for p in f.parameters() if p.grad is not None)

@every
@torch.no_grad()
def test_weights_go_from_one_to_another(cls):
    f,g,(ms,pan) = net(cls),net(cls, seed=1),pair()
    x = f(ms, pan)
    assert not torch.equal(g(ms, pan), x)
    g.load_state_dict(f.state_dict())
    assert torch.equal(g(ms, pan), x)

@every
def test_one_name_a_tensor(cls):
    "safetensors refuses two names for one storage."
    w = net(cls).state_dict().values()
    shared = dict(MDCUN=3).get(cls.__name__, 0) # one slope for the two activations of a residual block
    assert len(w)-len({v.data_ptr() for v in w})==shared

multiples = dict(TFNet=4, MSDDN=4, LDPNet=2, MDCUN=8, PGCU=16, PanNetPGCU=16, DCFNet=4, SUMDUN=8)

@pytest.mark.parametrize('name', multiples)
@torch.no_grad()
def test_padding_is_only_at_the_far_edge(name):
    "Sides that a network cannot halve: the same as a pair that was padded by hand."
    m,r = multiples[name],1 if name=='LDPNet' else 2
    f,(ms,pan) = net(classes[name], ratio=r),pair(h=9, w=5, r=r)
    dh,dw = -9%(m//r),-5%(m//r)
    y = f(F.pad(ms, (0, dw, 0, dh), 'replicate'), F.pad(pan, (0, r*dw, 0, r*dh), 'replicate'))
    assert dh*dw and torch.equal(f(ms, pan), y[..., :9*r, :5*r])

@every
def test_flat_images_have_finite_gradients(cls):
    f = net(cls)
    for v in (0., 1.):
        f.zero_grad()
        f(torch.full((1, 4, 4, 4), v), torch.full((1, 1, 16, 16), v)).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in f.parameters() if p.grad is not None)

@field
def test_every_parameter_gets_a_gradient(cls):
    "But what the result does not need. At this seed no ReLU of a gate, a few units on one pooled vector, is asleep."
    f = net(cls, seed=6)
    f(*pair()).square().mean().backward()
    idle = {n.split('.')[0] for n,p in f.named_parameters() if p.grad is None or not p.grad.any()}
    assert idle==dict(AWFLN={'spare'}, LDPNet={'gray', 'blur'}).get(cls.__name__, set())

# what differs in how they learn
lessons = dict(GPPNN=dict(knobs=dict(n=12), lr=.015, steps=60, loss=l1), TFNet=dict(steps=40, loss=l1), MSDCNN=dict(lr=2e-3, steps=60),
    MSDDN=dict(lr=3e-3, steps=40), SFINet=dict(knobs=dict(K=1), lr=3e-3, steps=40), AWFLN=dict(knobs=dict(n=12), size=16, lr=3e-3, steps=75),
    MDCUN=dict(size=16, steps=40), LDPNet=dict(steps=60), UTSN=dict(lr=3e-3, steps=60))

@field
def test_learns(cls):
    "One made-up patch: the loss falls fivefold, and stays."
    o = dict(knobs={}, size=32, lr=5e-3, steps=30, loss=l2) | lessons.get(cls.__name__, {})
    ms,pan,gt = (z/2047 for z in to_tensors(made_up('QB', size=o['size'])))
    f,ls = net(cls, seed=6, **o['knobs']).train(),[]
    opt = torch.optim.Adam(f.parameters(), lr=o['lr'])
    for _ in range(o['steps']):
        ls.append(o['loss'](f(ms, pan), gt))
        opt.zero_grad()
        ls[-1].backward()
        opt.step()
    assert max(ls[-5:])<ls[0]/5
