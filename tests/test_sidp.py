"SIDP: golden counts, an independent forward pass from the equations, every knob, and a real patch."
import pytest, torch, torch.nn.functional as F
from conftest import net, pair
from torch.utils.flop_counter import FlopCounterMode
from pansharp_nb.data.degrade import wald
from pansharp_nb.data.scenes import open_scene, to_tensors
from pansharp_nb.losses import l2, sam_loss, sidp_loss
from pansharp_nb.models.sidp import SIDP

def count(**kw):
    with torch.device('meta'): return sum(p.numel() for p in SIDP(**kw).parameters())

golden = [(dict(), 329151), (dict(gray=False), 328855), (dict(bands=8), 374403), (dict(use_lka=False), 293055),
    (dict(use_sse=False), 311471), (dict(last_dfr=False), 310976)]

@pytest.mark.parametrize('kw,want', golden)
def test_count(kw, want): assert count(**kw)==want

def test_components():
    with torch.device('meta'): n = SIDP()
    def of(part): return sum(p.numel() for k,p in n.named_parameters() if f'.{part}.' in f'.{k}')
    assert [of(p) for p in ('pfe', 'pr', 'mce', 'mr', 'reconvs', 'gray')]==[100880, 72700, 82192, 72972, 111, 296]

grid = {8: '6.7 13 20 26 33', 16: '17 33 50 67 83', 32: '50 99 148 198 247', 64: '165 329 494 658 823',
    128: '593 1186 1779 2372 2965'}

@pytest.mark.parametrize('C', grid)
def test_grid(C):
    "Thousands of parameters over C x N, as printed in the specification."
    for N,want in zip((2, 4, 6, 8, 10), grid[C].split()):
        digits = len(want.partition('.')[2])
        assert f'{count(C=C, N=N)/1e3:.{digits}f}'==want, (C, N)

@pytest.mark.parametrize('kw,giga,digits', [({}, 20.29, 2), (dict(last_dfr=False), 19.1, 1)])
def test_macs(kw, giga, digits):
    "4 bands, PAN 256."
    with torch.device('meta'), FlopCounterMode(display=False) as f: SIDP(**kw)(torch.rand(1, 4, 64, 64), torch.rand(1, 1, 256, 256))
    assert round(f.get_total_flops()/2e9, digits)==giga

def by_hand(s, ms, pan, N, c):
    "Eqs. 5 to 9 from a state dict, written without the package's modules."
    def conv(x, k, **kw): return F.conv2d(x, s[k+'.weight'], s[k+'.bias'], **kw)
    def layers(x, k):
        xs,i = [x],0
        while f'{k}.layers.{i}.0.weight' in s:
            xs.append(F.prelu(conv(torch.cat(xs, 1), f'{k}.layers.{i}.0', padding=1), s[f'{k}.layers.{i}.1.weight']))
            i += 1
        return xs[1:]
    def lka(x, k):
        C = x.shape[1]
        a = conv(conv(x, k+'.near', padding=2, groups=C), k+'.far', padding=9, dilation=3, groups=C)
        return x*conv(a, k+'.mix')
    def sse(x, k):
        v = F.adaptive_avg_pool2d(x, 4).flatten(1) @ s[k+'.squeeze.weight'].T
        w = torch.sigmoid(v.relu() @ s[k+'.excite.weight'].T)
        return x + x*w[:, :, None, None]
    up = F.interpolate(ms, scale_factor=4, mode='bicubic', align_corners=False)
    P,M,Ms = pan.repeat(1, c, 1, 1),up,[]
    for i in range(N):
        at = f'streams.levels.{i}'
        FP = lka(torch.cat(layers(P, at+'.pfe.0'), 1), at+'.pfe.1')
        P = layers(FP, at+'.pr')[-1].mean(1, keepdim=True).repeat(1, c, 1, 1) + P
        if i:
            k = f'streams.reconvs.{i-1}'
            M = conv(F.prelu(torch.cat(Ms, 1), s[k+'.0.weight']), k+'.1')
        FM = sse(torch.cat(layers(M, at+'.mce.0'), 1), at+'.mce.1')
        Ms.append(sse(layers(FM+FP, at+'.mr.0')[-1], at+'.mr.1'))
    return Ms[-1], P

def test_equations():
    n,(ms,pan) = net(SIDP, 5).double(),pair(5, dtype=torch.float64)
    with torch.no_grad():
        x,aux = n(ms, pan, aux=True)
        want,P = by_hand(n.state_dict(), ms, pan, 3, 5)
    torch.testing.assert_close(x, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(aux['P'], P, rtol=1e-12, atol=1e-12)

@pytest.mark.parametrize('kw', [dict(share_levels=True), dict(use_lka=False), dict(use_sse=False), dict(sse_pool=1),
    dict(sse_residual=False), dict(dcr_sse=False), dict(last_dfr=False), dict(reconv_k=3), dict(interaction='last'),
    dict(global_residual=True), dict(growth_div=2), dict(gray=False), dict(N=1)])
def test_knobs(kw):
    "Each knob runs, and changes the count or the result, forward and backward."
    n,(ms,pan) = net(SIDP, **kw).train(),pair()
    x,aux = n(ms, pan, aux=True)
    sidp_loss(x, pan, aux['up'], aux['gray']).backward()
    assert x.isfinite().all()
    same = sum(p.numel() for p in n.parameters())==sum(p.numel() for p in net(SIDP).parameters())
    if same: assert not torch.equal(net(SIDP)(ms, pan), net(SIDP, **kw)(ms, pan))

def test_unknown_knob():
    with pytest.raises(TypeError): SIDP(use_lkaa=False)
    with pytest.raises(ValueError, match='every, last or none'): SIDP(interaction='first')
    with pytest.raises(ValueError, match='a multiple of 4'): SIDP(C=30)

def test_shared_levels():
    "One level whatever N; only Re-conv grows."
    a,b = (count(share_levels=True, N=n, gray=False) for n in (2, 4))
    assert b-a==sum(4*4*i+4+1 for i in (2, 3))
    n,(ms,pan) = net(SIDP, share_levels=True),pair()
    n(ms, pan).sum().backward()
    assert all(p.grad is not None for p in n.streams.parameters())

def test_interaction():
    "Without it PAN is not seen; with it at the end only, the early results are those of the deaf network."
    ms,pan = pair()
    outs = {}
    for how in ('every', 'last', 'none'):
        n = net(SIDP, interaction=how)
        seen = []
        for f in n.streams.levels: f.register_forward_hook(lambda m, i, o: seen.append(o[1]))
        with torch.no_grad(): n(ms, pan)
        outs[how] = seen
    assert torch.equal(outs['last'][0], outs['none'][0]) and not torch.equal(outs['last'][-1], outs['none'][-1])
    assert not torch.equal(outs['every'][0], outs['none'][0])

def test_clamp():
    ms,pan = pair()
    n,m = net(SIDP, global_residual=True),net(SIDP, global_residual=True, clamp=True)
    with torch.no_grad():
        x = n(5*ms, pan)
        assert x.max()>1 and torch.equal(m(5*ms, pan), x.clamp(0, 1)) and torch.equal(m.train()(5*ms, pan), x)

def train(n, ms, pan, loss, steps, lr=5e-3):
    opt,ls = torch.optim.Adam(n.parameters(), lr=lr),[]
    for _ in range(steps):
        l = loss(*n(ms, pan, aux=True))
        opt.zero_grad()
        l.backward()
        opt.step()
        ls.append(l.item())
    return ls

@pytest.fixture(scope='module')
def patch(scenes):
    "A Wald pair of a real scene on [0, 1], and its truth."
    ms,pan,_ = to_tensors(open_scene(scenes/'IKONOS_imgIK.nc'))
    m,p,gt = (z/2047 for z in wald(ms[..., :64, :64], pan[..., :256, :256], 'IKONOS'))
    return m[..., 2:10, 2:10], p[..., 8:40, 8:40], gt[..., 8:40, 8:40]

def test_overfits(patch):
    ms,pan,gt = patch
    ls = train(net(SIDP, C=16, N=2).train(), ms, pan, lambda x, aux: l2(x, gt), 60)
    assert ls[-1]<ls[0]/10

def test_learns_alone(patch):
    "Its own loss, which never sees the truth, turns the colours towards it."
    ms,pan,gt = patch
    n = net(SIDP, C=16, N=2).train()
    first = sam_loss(n(ms, pan), gt).item()
    ls = train(n, ms, pan, lambda x, aux: sidp_loss(x, pan, aux['up'], aux['gray']), 60)
    assert ls[-1]<ls[0]/3 and sam_loss(n(ms, pan), gt)<first/3
