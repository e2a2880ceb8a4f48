"DCFNet and its fusion units against the published counts, loops written out by hand, and their limits."
import pytest, torch, torch.nn.functional as F
from conftest import shaken
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from pansharp_nb.data.degrade import interp23tap
from pansharp_nb.data.scenes import open_scene, to_tensors
from pansharp_nb.layers import dbf as units
from pansharp_nb.layers.dbf import DBF, PCFT, PFU, weights
from pansharp_nb.layers.sizes import upsample
from pansharp_nb.models.dcfnet import DCFNet

torch.manual_seed(0)

def count(m): return sum(p.numel() for p in m.parameters())
def convs(m): return [c for c in m.modules() if isinstance(c, nn.Conv2d)]

def pair(C=4, h=8, w=8, r=4, B=1, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(B, C, h, w, generator=g, dtype=dtype),torch.rand(B, 1, r*h, r*w, generator=g, dtype=dtype)

# counts

@pytest.mark.parametrize('C,want', [(4, 2_757_955), (8, 2_768_071)])
def test_parameters(C, want):
    "As published, with 31 raw weights; 19 of the poster's; 2,768,040 at 8 bands without, as the authors' own print-out says."
    assert count(DCFNet(C, dbf='repo'))==want
    assert count(DCFNet(C))==want-12
    assert count(DCFNet(C, dbf='none'))==want-31
    assert count(DCFNet(C, dbf='repo', first='sum'))==want-576

def test_parts():
    n = DCFNet(8, dbf='repo')
    parts = dict(head=[n.head], stage1=[n.stage1], transition=[n.pyramid.to0, n.pyramid.to1, n.pyramid.pfu],
        stage2=[n.pyramid.stage2, n.pyramid.pcft, n.pyramid.dbf2], stage3=[n.pyramid.stage3, n.pyramid.dbf3], tail=[n.tail])
    size = {k: sum(map(count, v)) for k,v in parts.items()}
    assert size==dict(head=42_304, stage1=286_208, transition=299_970, stage2=917_197-147_712, stage3=1_317_456, tail=52_648)
    layers = {k: sum(len(convs(m)) for m in v) for k,v in parts.items()}
    assert layers==dict(head=2, stage1=13, transition=5, stage2=20, stage3=25, tail=2)

def test_parameters_of_ablations():
    "Plain arithmetic on the layers each knob removes; 63 convolutions with concatenation, as an older print-out lists."
    full = count(DCFNet(4))
    assert full-count(DCFNet(4, pcft=False))==(9*32*64+2*64) + (9*64*128+2*128) + 2
    assert len(convs(DCFNet(4)))==67 and len(convs(DCFNet(4, pfu='concat')))==63
    saved = sum(9*C*c + 2*(9*c*c+2*c) + 2 - (9*(C+c)*c+2*c) for C,c in ((4, 64), (4, 128)))
    assert full-count(DCFNet(4, pfu='concat'))==saved

@pytest.mark.parametrize('C,side,giga', [(4, 64, 3.409), (4, 256, 54.545), (8, 64, 3.426), (8, 256, 54.811)])
def test_macs(C, side, giga):
    with torch.device('meta'): net,ms,pan = DCFNet(C),torch.empty(1, C, side//4, side//4),torch.empty(1, 1, side, side)
    with FlopCounterMode(display=False) as f: net(ms, pan)
    macs = f.get_flop_counts()['Global'][torch.ops.aten.convolution]/2
    assert round(macs/1e9, 3)==giga

@pytest.mark.parametrize('C,giga,big', [(4, 3.458, 55.324), (8, 3.474, 55.591)])
def test_thop(C, giga, big):
    thop = pytest.importorskip('thop')
    macs,params = thop.profile(DCFNet(C), pair(C, 16, 16), verbose=False)
    assert round(macs/1e9, 3)==giga
    assert round(16*macs/1e9, 3)==big # everything is per pixel
    assert params==count(DCFNet(C, dbf='none')) # bare weights are not seen

def test_every_layer_is_called():
    net,seen = DCFNet(4, dim=4).eval(),set()
    for n,m in net.named_modules(): m.register_forward_hook(lambda m, i, o, n=n: seen.add(n))
    net(*pair())
    lists = {n for n,m in net.named_modules() if type(m) is nn.ModuleList}
    assert {n for n,_ in net.named_modules()}-seen==lists

# the units

def test_weights():
    for k in range(20):
        w = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
        for dim in (0, 1):
            v = weights(w, dim)
            assert (v>=0).all() and (v.sum(dim)<1).all()
            assert (v[w<0]==0).all()
            alive = (w.relu().sum(dim, keepdim=True)>.2).expand_as(w)
            assert (weights(9*w, dim)-v)[alive].abs().max()<1e-3
    one = torch.tensor([3.], dtype=torch.float64)
    assert weights(one).item()==pytest.approx(3/3.0001, rel=1e-12)

def test_dead_weight_gets_no_gradient():
    dbf = DBF((4, 8, 16)).double()
    dbf.w.data[0, 2] = -.01
    sum(o.sum() for o in dbf([torch.rand(2, 4*2**i, 16>>i, 16>>i, dtype=torch.float64) for i in range(3)])).backward()
    assert dbf.w.grad[0, 2]==0 and (dbf.w.grad.flatten()[[0, 1, 3, 4, 5, 6, 7, 8]]!=0).all()
    assert all((p.grad==0).all() for p in dbf.T[0][2].parameters())

def bn(x, m): return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias)

def hop(x, seq, ks, stride, act):
    y = bn(F.conv2d(x, seq[0].weight, stride=stride, padding=ks//2), seq[1])
    return y.relu() if act else y

@pytest.mark.parametrize('how', ['poster', 'repo', 'none'])
@pytest.mark.parametrize('n', [2, 3])
def test_exchange_by_hand(how, n):
    "Branch by branch, weight by weight."
    widths = (3, 5, 7)[:n]
    dbf = shaken(DBF(widths, how).double().eval())
    xs = [torch.randn(2, c, 12>>i, 20>>i, dtype=torch.float64) for i,c in enumerate(widths)]
    def share(i, j):
        if how=='none': return 1
        raw = dbf.w[i, :n] if how=='poster' else dbf.w[:n+1, j]
        return dbf.w[i, j].item()/(sum(a.item() for a in raw)+1e-4)
    for i,got in enumerate(dbf(xs)):
        o = share(i, i)*xs[i]
        for j in range(n):
            if j>i: t = F.interpolate(hop(xs[j], dbf.T[i][j], 1, 1, False), xs[i].shape[2:], mode='bilinear', align_corners=True)
            if j==i-1: t = hop(xs[j], dbf.T[i][j][0], 3, 2, False)
            if j==i-2: t = hop(hop(xs[j], dbf.T[i][j][0], 3, 2, True), dbf.T[i][j][1], 3, 2, False)
            if j!=i: o = o + share(i, j)*t
        assert (got-o.relu()).abs().max()<1e-12

def test_pre_fusion_by_hand():
    pfu = shaken(PFU(3, 5).double().eval())
    x,ms = torch.randn(2, 5, 9, 7, dtype=torch.float64),torch.rand(2, 3, 9, 7, dtype=torch.float64)
    a0,a1 = (pfu.w/(pfu.w.sum()+1e-4)).tolist()
    o = (a0*x + a1*F.conv2d(ms, pfu.conv.weight, padding=1)).relu()
    want = (o + hop(hop(o, pfu.block.body[0], 3, 1, True), pfu.block.body[1], 3, 1, False)).relu()
    assert (pfu(x, ms)-want).abs().max()<1e-12

def test_cross_transfer_by_hand():
    pcft = shaken(PCFT(3, 4, 6, 8).double().eval())
    x0,x1,ms = (torch.randn(2, c, s, s, dtype=torch.float64) for c,s in ((4, 16), (6, 8), (3, 4)))
    b0,b1 = (pcft.w/(pcft.w.sum()+1e-4)).tolist()
    u = pcft.pfu(hop(x1+hop(x0, pcft.down0, 3, 2, True), pcft.down1, 3, 2, True), ms)
    want = b0*hop(x1, pcft.straight, 3, 2, True) + b1*u
    assert (pcft(x0, x1, ms)-want).abs().max()<1e-12

# the network

variants = [dict(dbf='repo'), dict(dbf='none'), dict(pcft=False), dict(pfu='concat'), dict(first='sum'), dict(up='bicubic'),
    dict(residual=True), dict(dbf='none', pcft=False, pfu='concat', first='sum'), dict(blocks=1), dict(up='bicubic', ratio=12)]

@pytest.mark.parametrize('knobs', variants, ids=str)
def test_knobs(knobs):
    r = knobs.get('ratio', 4)
    net = DCFNet(4, dim=4, **knobs)
    x = net(*pair(r=r))
    assert x.shape==(1, 4, 8*r, 8*r) and x.isfinite().all()
    x.square().mean().backward()
    assert [k for k,p in net.named_parameters() if p.grad is None]==[]

def test_wrong_knobs():
    for kw in (dict(ratio=3), dict(ratio=0), dict(first='add'), dict(up='nearest'), dict(dbf='mean'), dict(pfu='add')):
        with pytest.raises(ValueError, match=next(iter(kw))): DCFNet(4, dim=4, **kw)

@pytest.mark.parametrize('corners', [True, False])
def test_figure_by_hand(corners):
    "The arrows of the network once more, with the units as they are."
    net = shaken(DCFNet(4, dim=4, dbf='repo', corners=corners).double().eval())
    ms,pan = pair(4, 9, 8, B=2, dtype=torch.float64)
    def up(x, size): return F.interpolate(x, size, mode='bilinear', align_corners=corners)
    x = net.stage1(net.head(torch.cat([pan, interp23tap(ms, 4)], 1)))
    pyr = net.pyramid
    a = pyr.stage2[0](pyr.to0(x))
    b = pyr.stage2[1](pyr.pfu(pyr.to1(x), up(ms, (18, 16))))
    c = pyr.pcft(a, b, ms)
    a,b = pyr.dbf2([a, b])
    a,b,c = pyr.dbf3([s(t) for s,t in zip(pyr.stage3, (a, b, c))])
    want = net.tail(torch.cat([a, up(b, (36, 32)), up(c, (36, 32))], 1))
    assert (net(ms, pan)-want).abs().max()<1e-12

def test_residual_and_lms():
    ms,pan = pair()
    for up,f in (('interp23', interp23tap), ('bicubic', upsample)):
        a,b = (shaken(DCFNet(4, dim=4, up=up, residual=res).eval()) for res in (False, True))
        b.load_state_dict(a.state_dict())
        assert (b(ms, pan)-a(ms, pan)-f(ms, 4)).abs().max()<1e-5

def test_scale_of_raw_weights_does_not_matter():
    net = shaken(DCFNet(4, dim=4).double().eval())
    ms,pan = pair(dtype=torch.float64)
    x = net(ms, pan)
    for m in net.modules():
        if isinstance(getattr(m, 'w', None), nn.Parameter): m.w.data *= 50
    assert (net(ms, pan)-x).abs().max()<1e-3*x.abs().max()

def test_gradients():
    "All parameters but the bias that batch normalisation undoes; both inputs."
    net = DCFNet(4, dim=4).double()
    ms,pan = (t.requires_grad_() for t in pair(B=2, dtype=torch.float64))
    net(ms, pan).square().mean().backward()
    size = {k: p.grad.abs().max().item() for k,p in net.named_parameters()}
    assert [k for k,g in size.items() if g<1e-12*max(size.values())]==['tail.0.bias']
    assert (ms.grad!=0).any() and (pan.grad!=0).all()

def test_momentum(): assert {m.momentum for m in DCFNet(4, dim=4).modules() if isinstance(m, nn.BatchNorm2d)}=={.01}

def test_only_aligned_corners_keep_tiles_from_agreeing():
    "Far from the tile's edge, a tile differs from the whole; with pixel areas aligned instead, it does not."
    ms,pan = pair(4, 4, 48, dtype=torch.float64)
    def gap(**kw):
        net = shaken(DCFNet(4, dim=4, blocks=1, up='bicubic', **kw).double().eval())
        with torch.no_grad(): return (net(ms, pan)[..., :16]-net(ms[..., :32], pan[..., :128])[..., :16]).abs().max()
    assert gap()>1e-5 and gap(corners=False)<1e-12

def test_overfits_a_real_patch(scenes):
    "Ten times less in thirty steps, and better than a constant image per band."
    ds = open_scene(scenes/'WV3rr_fusionnet_1patch.nc')
    ms,pan,gt = (t/2047 for t in to_tensors(ds))
    ms,pan,gt = ms[..., :8, :8],pan[..., :32, :32],gt[..., :32, :32]
    torch.manual_seed(0)
    net,losses = DCFNet(8, dim=8),[]
    opt = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(40):
        losses.append(F.mse_loss(net(ms, pan), gt))
        opt.zero_grad()
        losses[-1].backward()
        opt.step()
    assert losses[-1]<losses[0]/10
    assert losses[-1]<gt.var((-2, -1)).mean()
