"MFMIF-Net and its layers: the golden counts, independent forms, every knob, and one real patch."
import numpy as np, pytest, torch, torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from pansharp_nb.data.scenes import crop, open_scene, to_tensors
from pansharp_nb.layers.affb import AFFB, weigh
from pansharp_nb.layers.convgru import ConvGRU
from pansharp_nb.layers.dau import DAU
from pansharp_nb.layers.mmifb import MMIFB
from pansharp_nb.layers.shallow import Shallow
from pansharp_nb.models.mfmif import MFMIFNet

@pytest.fixture(autouse=True)
def quiet():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(n)

def count(m): return sum(p.numel() for p in m.parameters())

def meta(*args, **kw):
    with torch.device('meta'): return MFMIFNet(*args, **kw)

def pair(bands=4, h=5, w=6, r=4, B=1, seed=0, **kw):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(B, bands, h, w, generator=g).to(**kw), torch.rand(B, 1, r*h, r*w, generator=g).to(**kw)

# --- counts

@pytest.mark.parametrize('want,kw', [
    (1_517_134, {}), (2_008_654, dict(kernel_sizes=(3, 5, 7, 9))), (2_514_190, dict(mmifb_gru_shared=False)),
    (3_005_710, dict(kernel_sizes=(3, 5, 7, 9), mmifb_gru_shared=False)), (1_542_486, dict(bands=8))])
def test_golden_counts(want, kw): assert count(meta(**kw))==want

def test_golden_parts():
    for b in meta().stages:
        got = dict(head=count(b.head), shallow=count(b.shallow), dau=sum(count(s.dau) for s in b.steps), affb=count(b.affb),
            mmifb=sum(count(s.mmifb) for s in b.steps), gru=count(b.grus), fuse=sum(count(s.fuse) for s in b.steps))
        assert got==dict(head=1472, shallow=19688, dau=62361, mmifb=424608, gru=166176, fuse=55392, affb=28870)

@pytest.mark.parametrize('S,millions', [(1, .57), (2, 1.04), (4, 1.99)])
def test_golden_steps(S, millions): assert round(count(meta(steps=S))/1e6, 2)==millions

@pytest.mark.parametrize('kernel_sizes,giga', [((1, 3, 5, 7), 102.8), ((3, 5, 7, 9), 122.9)])
def test_golden_macs(kernel_sizes, giga):
    "As thop counts: PReLU and pooling included. On the meta device, so `forward` makes no tensor of its own on the CPU."
    thop = pytest.importorskip('thop')
    macs,_ = thop.profile(meta(kernel_sizes=kernel_sizes), pair(h=64, w=64, device='meta'), verbose=False)
    assert round(macs/1e9, 1)==giga

@pytest.mark.parametrize('kernel_sizes', [(1, 3, 5, 7), (3, 5, 7, 9)])
def test_macs_by_hand(kernel_sizes):
    "Convolutions only: a pixel costs what the kernels weigh, the scale GRU four times; channel gates once an image."
    with FlopCounterMode(display=False) as f: meta(kernel_sizes=kernel_sizes)(*pair(h=64, w=64, device='meta'))
    scales = 1024*sum(k*k for k in kernel_sizes)
    gru,k3 = 9*64*96,9*32*32
    step = 2*k3+2*25+64*32 + scales+4*gru + gru + 2*k3
    pixel = 9*5*32 + 81*5*32+32*8+25*8*32 + 3*step + 3*k3+9*32*4
    assert f.get_total_flops()//2 == pixel*(256**2+128**2) + 2*3*2*32*4

# --- layers against forms written another way

def test_convgru_is_a_gru():
    "At one pixel, with a diagonal W on h in the candidate (so that resetting before or after it is the same)."
    torch.manual_seed(1)
    a,b = nn.GRUCell(3, 5).double(),ConvGRU(3, 5, ks=1).double()
    r,z,n = a.weight_ih.data.chunk(3)
    R,Z,N = a.weight_hh.data.chunk(3)
    N.copy_(torch.diag(N.diag()))
    a.bias_hh.data.zero_()
    br,bz,bn = a.bias_ih.data.chunk(3)
    b.gates.weight.data = torch.cat([torch.cat([-Z, -z], 1), torch.cat([R, r], 1)])[..., None, None]
    b.gates.bias.data = torch.cat([-bz, br])
    b.cand.weight.data,b.cand.bias.data = torch.cat([N, n], 1)[..., None, None],bn.clone()
    x,h = torch.randn(7, 3).double(),torch.randn(7, 5).double()
    torch.testing.assert_close(b(x[..., None, None], h[..., None, None])[..., 0, 0], a(x, h))

def test_convgru_neighbours():
    "A step sees 3x3 of x through each gate, and 5x5 of h: the reset gate is nested in the candidate."
    cell = ConvGRU(2, 3).double()
    x,h = torch.rand(1, 2, 13, 13).double().requires_grad_(),torch.rand(1, 3, 13, 13).double().requires_grad_()
    for v,side in zip(torch.autograd.grad(cell(x, h)[..., 6, 6].sum(), (x, h)), (5, 5)):
        assert ((v[0]!=0).any(0)).sum()==side**2

def test_dau_by_hand():
    m,x = DAU(16).double(),torch.randn(2, 16, 9, 7).double()
    w = {k: v for k,v in m.named_parameters()}
    u = F.conv2d(F.prelu(F.conv2d(x, w['body.0.weight'], padding=1), w['body.1.weight']), w['body.2.weight'], padding=1)
    s = torch.sigmoid(F.conv2d(torch.stack([u.max(1).values, u.mean(1)], 1), w['sa.conv.weight'], padding=2))
    v = u.mean((2, 3))
    c = torch.sigmoid(F.relu(v @ w['ca.gate.1.weight'].flatten(1).T) @ w['ca.gate.3.weight'].flatten(1).T)[..., None, None]
    torch.testing.assert_close(m(x), x + F.conv2d(torch.cat([s*u, c*u], 1), w['mix.weight']))
    assert 'bias' not in ' '.join(w)

@pytest.mark.parametrize('shared', [True, False])
@pytest.mark.parametrize('out', ['last', '1x1'])
def test_mmifb_by_hand(shared, out):
    m,x = MMIFB(8, (1, 3, 5), shared=shared, out=out).double(),torch.randn(2, 8, 9, 7).double()
    h,hs = torch.zeros_like(x),[]
    for k in range(3):
        cell = m.join.cells[0 if shared else k]
        h = cell(m.scales[k](x), h)
        hs.append(h)
    torch.testing.assert_close(m(x), h if out=='last' else F.conv2d(torch.cat(hs, 1), m.join.mix.weight, m.join.mix.bias))
    assert [s[0].kernel_size[0] for s in m.scales]==[1, 3, 5]

@pytest.mark.parametrize('seed', range(3))
def test_affb_is_the_matrix_form(seed):
    torch.manual_seed(seed)
    xd,xs = torch.randn(2, 3, 6, 5, 4, dtype=torch.float64)
    g = torch.randn(2, dtype=torch.float64)
    vd,vs = (F.adaptive_avg_pool2d(x, 1).flatten(1).relu() for x in (xd, xs))
    M = torch.einsum('bi,bj->bij', vd, vs)
    assert (torch.linalg.matrix_rank(M)<=1).all()
    got = weigh(xd, xs, g)
    torch.testing.assert_close(got[0], torch.einsum('bi,bihw->bihw', vd+g[0]*M.sum(2), xd))
    torch.testing.assert_close(got[1], torch.einsum('bi,bihw->bihw', vs+g[1]*M.sum(1), xs))

def test_affb_knobs():
    xd,xs = torch.rand(2, 2, 6, 5, 4)
    on,no_g,cat = (AFFB(3, 6, how) for how in ('on', 'no_g', 'concat'))
    for m in (no_g, cat): m.paint.load_state_dict(on.paint.state_dict())
    torch.testing.assert_close(on(xd, xs), no_g(xd, xs))
    torch.testing.assert_close(cat(xd, xs), cat.paint(torch.cat([xd, xs], 1)))
    on.g.data.fill_(1)
    assert (on(xd, xs)-no_g(xd, xs)).abs().max()>1e-3

def test_shallow_by_hand():
    m,x = Shallow(5, 16).double(),torch.randn(1, 5, 15, 14).double()
    w = list(m.parameters())
    def f(v, i, pad): return F.leaky_relu(F.conv2d(v, w[i], w[i+1], padding=pad), .2)
    y = f(x, 0, 4)
    assert [tuple(v.shape) for v in w[::2]]==[(16, 5, 9, 9), (4, 16, 1, 1), (16, 4, 5, 5)]
    torch.testing.assert_close(m(x), y + f(f(y, 2, 0), 4, 2))

# --- the network

def test_forward_is_the_paper():
    "Both stages and the three steps, written out; PAN first in every concatenation."
    net = MFMIFNet(4, width=8).double()
    ms,pan = pair(dtype=torch.float64)
    def stage(f, pan, lms):
        p = torch.cat([pan, lms], 1)
        out = f.head[0](p).relu()
        h = torch.zeros_like(out)
        for s,gru in zip(f.steps, f.grus, strict=True):
            h = gru(out, h)
            out = s.dau(out) + s.fuse(torch.cat([s.mmifb(out), h], 1))
        return f.affb(out, f.shallow(p))
    kw = dict(mode='bicubic', align_corners=False)
    x2 = stage(net.stages[0], F.interpolate(pan, scale_factor=.5, antialias=True, **kw), F.interpolate(ms, scale_factor=2, **kw))
    x = stage(net.stages[1], pan, F.interpolate(x2, scale_factor=2, **kw))
    got,got2 = net(ms, pan, aux=True)
    torch.testing.assert_close(got2, x2)
    torch.testing.assert_close(got, x)
    torch.testing.assert_close(net(ms, pan), x)

@pytest.mark.parametrize('bands,r,h,w', [(1, 4, 1, 1), (4, 4, 7, 3), (8, 2, 5, 9), (16, 4, 3, 2), (3, 8, 2, 3)])
def test_size_half_way(bands, r, h, w):
    with torch.no_grad(): _,half = MFMIFNet(bands, ratio=r, width=8, steps=1)(*pair(bands, h, w, r, B=2), aux=True)
    assert half is None if r==2 else half.shape==(2, bands, r*h//2, r*w//2)

@pytest.mark.parametrize('kw', [dict(share_stages=True, stage_gru='shared'), dict(resample='learned', mmifb_gru_shared=False)])
def test_no_shared_storage(kw):
    "One key a tensor: safetensors refuses two names for one storage."
    w = MFMIFNet(4, width=8, **kw).state_dict()
    assert len({v.data_ptr() for v in w.values()})==len(w)

def test_every_parameter_learns():
    "A channel gate may sleep for one image or one seed (four ReLUs on one vector), not for many."
    asleep = None
    for seed in range(4):
        torch.manual_seed(seed)
        net = MFMIFNet(4, width=16, steps=2)
        net(*pair(B=2, seed=seed)).pow(2).mean().backward()
        now = {k for k,p in net.named_parameters() if p.grad is None or not p.grad.any()}
        assert all('.ca.gate.' in k for k in now), now
        asleep = now if asleep is None else asleep&now
    assert not asleep

def test_first_memory_learns_a_third():
    net = MFMIFNet(4, width=8)
    net(*pair()).pow(2).mean().backward()
    for f in net.stages:
        for i,c in enumerate(f.grus):
            z,r = c.gates.weight.grad.chunk(2)
            dead = r, z[:, :8], c.cand.weight.grad[:, :8]
            assert [v.any().item() for v in dead]==[i>0]*3

# --- knobs: value, what it adds to the parameters of one stage at width 8 (k3: 3x3 convolution 8 -> 8)

k3 = 9*64+8
gru = 9*16*24+24
knobs = [(dict(steps=1), None), (dict(steps=5), None), (dict(kernel_sizes=(3, 3, 3, 3)), 3*64*(9+9+9+9-84)),
    (dict(mmifb='sum'), -3*gru), (dict(mmifb='concat'), 3*(32*8+8-gru)), (dict(mmifb='single'), 3*(9*64+8-64*84-32-gru)),
    (dict(mmifb_gru_shared=False), 3*3*gru), (dict(mmifb_out='1x1'), 3*(32*8+8)), (dict(stage_gru='shared'), -2*gru),
    (dict(stage_gru='off'), -3*gru-3*9*64), (dict(dau=False), -3*(50+16+128)), (dict(shallow='conv'), None),
    (dict(affb='no_g'), -2), (dict(affb='concat'), -2), (dict(global_residual=True), 0)]

@pytest.mark.parametrize('kw,more', knobs, ids=lambda v: str(v))
def test_knob(kw, more):
    net,(ms,pan) = MFMIFNet(4, width=8, **kw),pair()
    if more is not None: assert count(net)-count(MFMIFNet(4, width=8))==2*more
    x = net(ms, pan)
    assert x.shape==(1, 4, 20, 24)
    x.mean().backward()
    assert all(p.grad is not None for p in net.parameters())

def test_stage_knobs():
    ms,pan = pair()
    one,shared,learned = (MFMIFNet(4, width=8, **kw) for kw in (dict(two_stage=False), dict(share_stages=True), dict(resample='learned')))
    full = count(MFMIFNet(4, width=8))
    assert count(one)==count(shared)==full//2
    assert count(learned)==full + 2*(4*9+1)*16 + 10
    for net in (one, shared, learned): assert net(ms, pan).shape==(1, 4, 20, 24)
    assert one(ms, pan, aux=True)[1] is None
    assert shared(ms, pan, aux=True)[1].shape==(1, 4, 10, 12)
    p = pan.clone().requires_grad_()
    learned(ms, p, aux=True)[1].sum().backward()
    assert p.grad.any()

def test_global_residual():
    "With a painter that paints nothing, what is left is the upsampled MS, twice doubled."
    net,(ms,pan) = MFMIFNet(4, width=8, global_residual=True),pair()
    for f in net.stages:
        for v in f.affb.paint[-1].parameters(): v.data.zero_()
    kw = dict(scale_factor=2, mode='bicubic', align_corners=False)
    torch.testing.assert_close(net(ms, pan), F.interpolate(F.interpolate(ms, **kw), **kw))

@pytest.mark.parametrize('kw,word', [(dict(ratio=3), 'power of two'), (dict(ratio=1), 'power of two'), (dict(steps=0), 'at least one'),
    (dict(mmifb='mean'), 'mmifb'), (dict(mmifb_out='first'), 'mmifb_out'), (dict(stage_gru='on'), 'stage_gru'),
    (dict(shallow='deep'), 'shallow'), (dict(affb='off'), 'affb'), (dict(resample='nearest'), 'resample'),
    (dict(kernel_sizes=(2, 4)), 'kernel_sizes'), (dict(kernel_sizes=()), 'kernel_sizes')])
def test_wrong_knob(kw, word):
    with pytest.raises(ValueError, match=word): MFMIFNet(4, **dict(width=8) | kw)

def test_overfits_a_real_patch(scenes):
    f = scenes/'GF2rr_psdata3_tr0.nc'
    if not f.exists(): pytest.skip('no GF2 scene here')
    ms,pan,gt = (v/1023 for v in to_tensors(crop(open_scene(f), slice(0, 8), slice(0, 8))))
    net = MFMIFNet(4, width=16, steps=1)
    opt,losses = torch.optim.Adam(net.parameters()),[]
    rate = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=5e-3, total_steps=90)
    for _ in range(90):
        x = net(ms, pan)
        loss = F.mse_loss(x, gt)
        opt.zero_grad()
        loss.backward()
        opt.step()
        rate.step()
        losses.append(loss.item())
    assert losses[-1]<.1*losses[0]
    assert np.corrcoef(x.detach().flatten(), gt.flatten())[0, 1]>.5
