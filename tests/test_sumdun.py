"SUM-DUN: the proposal's counts, one state for any band count, the variants of Tables 4 and 5, and a real patch."
import pytest, torch, torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from pansharp_nb.data.degrade import mtf
from pansharp_nb.data.scenes import open_scene, to_tensors
from pansharp_nb.data.sensors import sensor
from pansharp_nb.layers.gdm import GDM, descend
from pansharp_nb.layers.sizes import upsample
from pansharp_nb.layers.spim import SPIM
from pansharp_nb.layers.transformer3d import MDTA, Transformer3D
from pansharp_nb.models.sumdun import SUMDUN, Path, shuffle, unshuffle

kinds = ('none', 'channel', 'spatial', 'spatial_channel', 'cross_attention')
rows4 = dict(I=dict(op='2d', prox='2d', bands=(4, 8)), II=dict(op='3d', prox='2d', bands=(4, 8)), III=dict(), IV=dict(multiscale=False, heads=(1,)*5))

@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)

def small(**kw): return SUMDUN(**dict(d=4, blocks=(1,)*5) | kw).eval()
def pair(c, h=4, w=4, r=4, b=1): return torch.rand(b, c, h, w), torch.rand(b, 1, r*h, r*w)
def prompt(b=1): return F.normalize(torch.randn(b, 384), dim=1)

def open_gates(net):
    "SPIM starts as the identity; make text count."
    for n,w in net.named_parameters():
        if n.split('.')[-1] in ('gamma', 'beta', 'g'): w.data.fill_(.3)
    return net

def count(**kw):
    with torch.device('meta'): return sum(p.numel() for p in SUMDUN(**kw).parameters())

# counts

@pytest.mark.parametrize('spim,want', [*zip(kinds, (.562, .593, .596, .627, 1.06))])
def test_parameters_of_the_proposal(spim, want):
    "Millions, as printed (three digits after the point, cross-attention two)."
    n = count(spim=spim, relay='pyramid')/1e6
    assert round(n, 2 if want>1 else 3)==want
    assert count(spim=spim)/1e6-n==pytest.approx(.14, abs=.0005)

@pytest.mark.parametrize('d,want', [(12, 1.31), (16, 2.25)])
def test_parameters_of_wider_ones(d, want): assert round(count(d=d, relay='pyramid')/1e6, 2)==want

def macs(c, h, **kw):
    with torch.device('meta'), FlopCounterMode(display=False) as f, torch.no_grad(): SUMDUN(**kw)(*pair(c, h, h))
    return f.get_total_flops()/2e9

def test_macs_of_the_proposal():
    "Pyramid, d=8: 4.9 G at PAN 128, 19.6 G at 256; linear in bands but for the PAN path."
    assert round(macs(4, 32, relay='pyramid'), 1)==4.9
    assert round(macs(4, 64, relay='pyramid'), 1)==19.6
    one,two,four = (macs(c, 4, d=4, blocks=(1,)*5) for c in (1, 2, 4))
    assert four-two==pytest.approx(2*(two-one), rel=1e-9)

# any band count

def test_one_state_for_4_and_8_bands():
    "Train on 8 bands, load strictly, fuse 4; then the other way round. The state never changes shape."
    a,b = small(),small()
    shapes = {n: v.shape for n,v in a.state_dict().items()}
    for src,dst,c,other in ((a, b, 8, 4), (b, a, 4, 8)):
        opt = torch.optim.SGD(src.parameters(), .01)
        src(*pair(c), prompt()).square().mean().backward()
        opt.step()
        dst.load_state_dict(src.state_dict(), strict=True)
        ms,pan = pair(other)
        assert torch.equal(src(ms, pan), dst(ms, pan))
        assert {n: v.shape for n,v in dst.state_dict().items()}==shapes

def test_two_satellites_in_turn_share_every_weight():
    "One optimiser step a satellite: both losses reach the same parameters."
    net,got = open_gates(small()).train(),[]
    for c in (4, 8):
        net.zero_grad()
        net(*pair(c), prompt()).square().mean().backward()
        got.append([n for n,w in net.named_parameters() if w.grad.abs().sum()>0])
    assert got[0]==got[1]==[n for n,_ in net.named_parameters()]

def test_batch_members_do_not_meet():
    net,(ms,pan),t = open_gates(small()),pair(4, b=3),prompt(3)
    torch.testing.assert_close(net(ms, pan, t)[1:2], net(ms[1:2], pan[1:2], t[1:2]), rtol=0, atol=1e-5)

# variants

@pytest.mark.parametrize('row', rows4)
@pytest.mark.parametrize('c', (4, 8))
def test_table4(row, c):
    "The network without text: it runs, it learns in every weight it uses, and text cannot matter."
    net = small(spim='none', **rows4[row])
    x = net(*(p:=pair(c)), prompt())
    x.square().mean().backward()
    assert x.shape==(1, c, 16, 16)
    idle = [n for n,w in net.named_parameters() if w.grad is None or not w.grad.abs().sum()>0]
    assert all(n.startswith(f'ends.{12-c}.') for n in idle) # ends of the other band count
    assert torch.equal(net(*p, prompt()), net(*p))

def test_two_dimensions_need_band_counts():
    keys = small(**rows4['I']).state_dict()
    assert any(k.startswith('ends.4.') for k in keys) and any(k.startswith('ends.8.') for k in keys)
    assert small(**rows4['III']).state_dict().keys().isdisjoint(k for k in keys if k.startswith('ends.'))
    with pytest.raises(ValueError, match='bands=4'): SUMDUN(prox='2d')
    with pytest.raises(ValueError, match=r'built for bands \(4, 8\), got 3'): small(**rows4['II'])(*pair(3))
    with pytest.raises(ValueError, match='2d 2d, 3d 2d, 3d 3d'): SUMDUN(op='2d', prox='3d')
    assert SUMDUN(5, prox='2d', op='2d', d=4, blocks=(1,)*5)(*pair(5)).shape==(1, 5, 16, 16)

@pytest.mark.parametrize('spim,route', [*((k, 'cos') for k in kinds), ('spatial_channel', 'moe4'), ('spatial', 'bank')])
def test_table5(spim, route):
    "Every variant starts as the network without text, and once trained listens to it."
    net,bare = small(spim=spim, route=route),small(spim='none')
    bare.load_state_dict({k: v for k,v in net.state_dict().items() if '.spim.' not in k})
    ms,pan = pair(4)
    torch.testing.assert_close(net(ms, pan, prompt()), bare(ms, pan), rtol=0, atol=1e-6)
    opt = torch.optim.SGD(net.parameters(), .1)
    for _ in range(2):
        opt.zero_grad()
        net(ms, pan, prompt()).square().mean().backward()
        opt.step()
    off = [n for n,w in net.named_parameters() if not w.grad.abs().sum()>0]
    assert not off, off
    moved = (open_gates(net)(ms, pan, prompt())-net(ms, pan, prompt())).abs().max()
    assert moved==0 if spim=='none' else moved>0

@pytest.mark.parametrize('kw', [dict(relay='pyramid'), dict(pan_term='folded'), dict(share_ops=True), dict(share_ops=True, multiscale=False, heads=(1,)*5)])
def test_other_knobs(kw):
    "They run, every weight learns, and no tensor is stored twice."
    net = open_gates(small(**kw))
    net(*pair(4), prompt()).square().mean().backward()
    assert not [n for n,w in net.named_parameters() if not w.grad.abs().sum()>0]
    at = [v.data_ptr() for v in net.state_dict().values()]
    assert len(at)==len({*at})

def test_shared_operators_step_on_their_own():
    net = small(share_ops=True)
    assert [len(g.rho) for g in net.stages.gdm]==[2, 2, 1]
    assert net.stages.use==[(0, 0), (1, 0), (2, 0), (1, 1), (0, 1)]

@pytest.mark.parametrize('kw,match', [(dict(spim='text'), 'spatial_channel'), (dict(relay='both'), 'pyramid'),
    (dict(pan_term='none'), 'folded'), (dict(d=5), 'odd'), (dict(ratio=3), 'ratio 3'), (dict(heads=(3,)*5), '3 heads')])
def test_wrong_knobs_are_named(kw, match):
    with pytest.raises(ValueError, match=match): SUMDUN(**kw)

# the text

def test_no_text_is_the_zero_vector():
    net,(ms,pan) = open_gates(small()),pair(4, b=2)
    assert torch.equal(net(ms, pan), net(ms, pan, torch.zeros(2, 384)))
    with pytest.raises(ValueError, match=r'\(2, 384\)'): net(ms, pan, prompt(1))

def test_prompt_dropout():
    "Only in training, and about as often as asked."
    net,(ms,pan),t = open_gates(small(prompt_dropout=.5)),pair(2, b=24),prompt(1).expand(24, -1)
    assert torch.equal(net(ms, pan, t), net(ms, pan, t))
    with torch.no_grad():
        told,silent,x = net(ms, pan, t),net(ms, pan),net.train()(ms, pan, t)
    gone = ((x-silent).abs().amax((1, 2, 3))<1e-6)
    kept = ((x-told).abs().amax((1, 2, 3))<1e-6)
    assert (gone ^ kept).all() and 4<gone.sum()<20

def test_expert_load():
    net = open_gates(small(route='moe4'))
    x,more = net(*pair(4), prompt(), aux=True)
    assert more['load']>0 and torch.autograd.grad(more['load'], net.stages.spmn[0].spim.terms[1].gate.weight)[0].abs().sum()>0
    assert small()(*pair(4), aux=True)[1]['load']==0

# numbers and machines

def test_dtypes_and_layouts():
    net,(ms,pan),t = open_gates(small()),pair(4),prompt()
    with torch.no_grad():
        x = net(ms, pan, t)
        last = dict(memory_format=torch.channels_last)
        torch.testing.assert_close(net(ms.to(**last), pan.to(**last), t), x, rtol=0, atol=1e-5)
        with torch.autocast('cpu', torch.bfloat16): y = net(ms, pan, t)
        assert y.isfinite().all() and (y.float()-x).abs().mean()<.05*x.abs().mean()
        torch.testing.assert_close(net.to(memory_format=torch.channels_last_3d)(ms, pan, t), x, rtol=0, atol=1e-5)
        z = net.double()(ms.double(), pan.double(), t)
    assert z.dtype==torch.float64
    torch.testing.assert_close(z.float(), x, rtol=0, atol=1e-4)

def test_nothing_is_made_on_the_cpu():
    "All inputs on another device (`meta`): any tensor made elsewhere would be refused."
    for kw in (dict(route='moe4', prompt_dropout=.5), dict(route='bank'), dict(spim='cross_attention')):
        with torch.device('meta'): net = small(**kw).train()
        ms,pan = (v.to('meta') for v in pair(4))
        assert net(ms, pan, prompt().to('meta'), aux=True)[0].device.type=='meta'

def test_checkpoint_changes_nothing_but_memory():
    a,b,(ms,pan),t = open_gates(small(route='moe4')),small(route='moe4', checkpoint=True),pair(4),prompt()
    b.load_state_dict(a.state_dict())
    held = []
    for net in (a, b):
        seen = {}
        def hold(v, seen=seen): # bytes kept for the backward pass, weights aside
            if not isinstance(v, nn.Parameter): seen[v.data_ptr()] = v.untyped_storage().nbytes()
            return v
        with torch.autograd.graph.saved_tensors_hooks(hold, lambda v: v): x,more = net(ms, pan, t, aux=True)
        (x.square().mean()+more['load']).backward()
        held.append(sum(seen.values()))
    for (n,v),w in zip(a.named_parameters(), b.parameters()): torch.testing.assert_close(v.grad, w.grad, rtol=1e-4, atol=1e-6, msg=n)
    assert held[1]<held[0]/2

def test_pan_depth_is_only_idle_weights():
    a,b,(ms,pan) = small(),small(pan_depth=1),pair(4)
    b.load_state_dict({n: v[:, :, 1:2] if n.startswith('p_path') and 'conv.weight' in n else v for n,v in a.state_dict().items()})
    torch.testing.assert_close(a(ms, pan), b(ms, pan), rtol=0, atol=1e-5)

# layers

def test_descend_walks_down_the_sensor_s_own_objective():
    "D is the toolbox's MTF and decimation, D^T its adjoint by automatic differentiation; the made-up H is a weighted sum."
    s,w = sensor('WV2', 8),torch.linspace(.05, .2, 8, dtype=torch.float64)[:, None, None]
    def D(x): return mtf(x, s, 4, down=True)
    def H(x): return (w*x).sum(1, keepdim=True)
    def DT(y): return torch.func.vjp(D, torch.zeros(1, 8, 32, 32, dtype=y.dtype))[1](y)[0]
    x = torch.rand(1, 8, 32, 32, dtype=torch.float64)
    m,p = D(torch.rand_like(x)),H(torch.rand_like(x))
    y = torch.rand_like(m)
    torch.testing.assert_close((D(x)*y).sum(), (x*DT(y)).sum())
    def f(x): return ((D(x)-m).square().sum()+.5*(H(x)-p).square().sum())/2
    for _ in range(5):
        z = descend(x, m, p, D, DT, H, lambda u: w*u, 1., .5)
        torch.testing.assert_close(z, x-torch.func.grad(f)(x))
        assert f(z)<f(x)
        x = z

def flat_state(net): # 3D weights that touch one band only -> 2D weights
    return {n: v[:, :, v.shape[2]//2] if v.dim()==5 else v for n,v in net.state_dict().items()}

def test_one_band_in_3d_is_2d():
    "With a depth of one, a 3D block is the 2D block of its middle taps."
    for three,two,args in ((Transformer3D(8, 2), Transformer3D(8, 2, dim=2), [torch.randn(2, 8, 9, 7)]),
        (GDM(4), GDM(4, dim=2), [torch.rand(2, 4, 16, 8), torch.rand(2, 4, 4, 2), torch.rand(2, 4, 16, 8)]),
        (Path(4), Path(4, 2), [torch.rand(1, 4, 8, 8)])):
        two.load_state_dict(flat_state(three))
        got,want = three(*(a[:, :, None] for a in args)),two(*args)
        for g,w in zip(*((v,) if torch.is_tensor(v) else v for v in (got, want))): torch.testing.assert_close(g[:, :, 0], w, rtol=0, atol=1e-5)
    spim = open_gates(SPIM(8)),open_gates(SPIM(8, dim=2))
    spim[1].load_state_dict(flat_state(spim[0]))
    f,t = torch.randn(2, 8, 6, 5),prompt(2)
    torch.testing.assert_close(spim[0](f[:, :, None], t)[:, :, 0], spim[1](f, t), rtol=0, atol=1e-5)

def test_mdta_against_torch_attention():
    "Channels as tokens, unit vectors, the temperature as scale."
    att,x = MDTA(8, 2),torch.randn(3, 8, 4, 6, 5)
    att.tau.data.fill_(1.7)
    q,k,v = (o.reshape(3, 2, 4, -1) for o in att.qkv(x).chunk(3, 1))
    want = F.scaled_dot_product_attention(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, scale=1.7)
    torch.testing.assert_close(att(x), att.out(want.reshape(x.shape)), rtol=0, atol=1e-5)

def test_shuffles_against_torch():
    v = torch.rand(2, 12, 5, 6, 4)
    want = torch.stack([F.pixel_shuffle(o, 2) for o in v.unbind(2)], 2)
    assert torch.equal(shuffle(v), want) and torch.equal(unshuffle(want), v)

def test_spim_treats_bands_alike():
    "SPIM treats bands alike: shuffle them (its kernels reduced to one band) and the answer is shuffled."
    net,f,t,perm = open_gates(SPIM(8)),torch.randn(1, 8, 6, 5, 5),prompt(),torch.randperm(6)
    for w in net.parameters():
        if w.dim()==5: w.data[:, :, [0, 2]] = 0
    torch.testing.assert_close(net(f, t)[:, :, perm], net(f[:, :, perm], t), rtol=0, atol=1e-5)

# a real patch

def test_overfits_a_real_patch(scenes):
    "Sixteen PAN pixels of a Gaofen-2 scene: ten times less loss, and less than half of bicubic's."
    ds = open_scene(scenes/'GF2rr_psdata3_tr0.nc')
    ms,pan,gt = (v/1023 for v in to_tensors(ds))
    ms,pan,gt = ms[..., :4, :4],pan[..., :16, :16],gt[..., :16, :16]
    net,t,losses = small(heads=(1, 1, 2, 1, 1)).train(),prompt(),[]
    opt = torch.optim.Adam(net.parameters(), 4e-3)
    for i in range(100):
        loss = F.l1_loss(net(ms, pan, t), gt)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
        if loss<losses[0]/10 and loss<.5*F.l1_loss(upsample(ms, 4), gt): break
    else: pytest.fail(f'from {losses[0]:.4f} to {losses[-1]:.4f}, bicubic {F.l1_loss(upsample(ms, 4), gt):.4f}')
