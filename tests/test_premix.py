"PreMix and its mixing layer against the published counts, the equations written out again, and real pixels."
import pytest, torch, torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from pansharp_nb.data.scenes import open_scene, to_tensors
from pansharp_nb.layers.branches import equalise, high_pass
from pansharp_nb.layers.ewfm import EWFM, mask_acts, mask_fn, mix, soft_step
from pansharp_nb.layers.filtering import predictive_filter
from pansharp_nb.layers.sizes import upsample
from pansharp_nb.models.premix import PreMixBase, PreMixHuge, SubNetwork, equalised, pair_statistics

@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(n)

def count(m): return sum(w.numel() for w in m.parameters())
def pair(bands=4, ratio=4, h=8, w=8, n=1, dtype=torch.float32):
    return torch.rand(n, bands, h, w, dtype=dtype), torch.rand(n, 1, ratio*h, ratio*w, dtype=dtype)

def true_macs(net, size=64): # 10**9, for a PAN of 256
    inputs = pair(net.bands, net.ratio, size//net.ratio, size//net.ratio)
    with FlopCounterMode(display=False) as f, torch.no_grad(): net(*inputs)
    return f.get_total_flops()/2e9*(256/size)**2

def thop_counts(net, size=64): # parameters, and 10**9 multiply-adds for a PAN of 256
    profile = pytest.importorskip('thop').profile
    with torch.no_grad(): macs,params = profile(net, inputs=pair(net.bands, net.ratio, size//net.ratio, size//net.ratio), verbose=False)
    return params, macs/1e9*(256/size)**2

# --- golden counts: (knobs, parameters by thop, multiply-adds by thop, parameters)

base_rows = [
    (dict(), 151400, 9.909, 151402),
    *[(dict(layers=n), p, m, p+n) for n,p,m in ((1, 77608, 5.077), (3, 225192, 14.741), (4, 298984, 19.573), (5, 372776, 24.405), (6, 446568, 29.236))],
    *[(dict(pf_kernel=k), p, m, p+2) for k,p,m in ((1, 130856, 8.567), (5, 290792, 19.036), (7, 745640, 48.832), (9, 1810856, 118.625))],
    *[(dict(dim=d), p, m, p+2) for d,p,m in ((16, 43480, 2.841), (24, 89376, 5.846), (48, 323832, 21.205), (64, 560776, 36.730))],
    (dict(layers=1, pf_kernel=5), 217000, 14.204, 217001),
    (dict(ewfm=False), 114536, 7.493, 114536),
    (dict(layers=4, ewfm=False), None, 14.74, 225256),
    (dict(bands=8), 173360, 11.343, 173362),
    (dict(mixing='soft'), 151400, 9.909, 151400),
    (dict(mixing='step'), 151400, 9.909, 151400)]

@pytest.mark.parametrize('knobs, thop_params, gmacs, params', base_rows, ids=lambda v: str(v) if isinstance(v, dict) else '')
def test_base_counts(knobs, thop_params, gmacs, params):
    "Spec of Table 3, Table 4, Figs. 20-21: thop and truth agree, for nothing is transposed."
    net = PreMixBase(**knobs)
    assert count(net)==params
    assert true_macs(net)==pytest.approx(gmacs, abs=6e-4 if gmacs!=14.74 else 6e-3)
    got,macs = thop_counts(net)
    assert macs==pytest.approx(gmacs, abs=6e-4 if gmacs!=14.74 else 6e-3)
    assert thop_params in (None, 217000) or got==thop_params
    assert round(got/1e3, 1)==217.0 or thop_params!=217000

orig,hp,he = ('orig',), ('hp', 'orig'), ('he', 'orig')
huge_rows = [
    (dict(), 864945, 35.025, 28.912),
    (dict(branches=orig), 288315, 11.68, None), (dict(branches=hp), 576630, 23.35, None), (dict(branches=he), 576630, 23.35, None),
    (dict(scales=(1,)), 232827, 15.23, None), (dict(scales=(2, 1)), 521142, 25.72, None),
    (dict(branches=orig, scales=(1,)), 77609, None, None), (dict(branches=orig, scales=(2, 1)), 173714, None, None),
    (dict(ewfm=False), 699048, 30.27, None), (dict(pf_kernel=5), None, 117.2, None), (dict(layers=2), None, 54.05, None),
    (dict(layers=3), None, 73.08, None), (dict(bands=8), None, 47.55, None)]

@pytest.mark.parametrize('knobs, params, by_thop, truth', huge_rows, ids=lambda v: str(v) if isinstance(v, dict) else '')
def test_huge_counts(knobs, params, by_thop, truth):
    "Tables 3, 5, 6. thop takes a transposed convolution at its output size, the truth is its input size, plus the 3 x 3 blur of the high-pass."
    net = PreMixHuge(**knobs)
    assert params in (None, count(net))
    if truth: assert true_macs(net) + 9*5*256**2/1e9==pytest.approx(truth, abs=1e-3)
    got,macs = thop_counts(net)
    bare = len(net.nets)*len(next(iter(net.nets.values())).blocks) if knobs.get('ewfm', True) else 0
    assert got==count(net)-bare
    if by_thop: assert macs==pytest.approx(by_thop, abs={28.912: 1e-3}.get(truth, .06 if by_thop>100 else 6e-3))

def test_huge_with_the_unused_block_of_the_public_code():
    "A block from 3C to C channels is built there and never called: 628 parameters at 4 bands, absent here."
    unused = 12*4*9 + 4*4*9 + 12*4 + 4
    assert unused==628 and count(PreMixHuge())+unused==865573
    for knobs,m in ((dict(pf_kernel=5), 2.120), (dict(layers=2), 1.530), (dict(layers=3), 2.194)):
        assert (count(PreMixHuge(**knobs))+unused)/1e6==pytest.approx(m, abs=5e-4)
    assert count(PreMixHuge(bands=8))/1e6==pytest.approx(1.063, abs=5e-4)

def test_sub_networks():
    assert [count(SubNetwork(4, layers=1, up=u)) for u in range(3)]==[77609, 96105, 114601]
    assert count(PreMixBase(layers=4, pf=False))==298988 - 2*(10404-1156)

def test_summing_two_pixel_heads_is_one_head_on_both():
    "Without predictive filtering, two readings of Table 4 are one function."
    f = SubNetwork(4, dim=6, pf=False)
    y,p = torch.rand(2, 1, 6, 9, 9)
    a,b = f.filter_y.predictor,f.filter_p.predictor
    both = F.conv2d(torch.cat([y, p], 1), torch.cat([a.weight, b.weight], 1), a.bias+b.bias, padding=1)
    assert torch.allclose(f.filter_y(y, None) + f.filter_p(p, None), both, atol=1e-5)

def test_what_no_counter_sees():
    "The filters, masks and mixing cost nothing by either counter."
    with FlopCounterMode(display=False) as f:
        predictive_filter(torch.rand(1, 4, 16, 16), torch.rand(1, 36, 16, 16))
        mix(*torch.rand(3, 1, 4, 16, 16))
    assert f.get_total_flops()==0

# --- the equations, written again from the paper

def test_mixed_convolution_is_a_convolution_with_own_kernels():
    "Eqs. 6-9 for one element, in loops: masked features under k, and features under a masked k."
    y,p,k = torch.randn(3, 5, 7, 7, dtype=torch.float64)
    m = torch.rand(5, 7, 7, dtype=torch.float64)
    k1,k2 = k[:, :3, :3],k[:, 3:6, 3:6]
    hy,hp = mix(y, p, m)
    near = [(c, i, j) for c in range(5) for i in range(3) for j in range(3)]
    for r,s in ((0, 0), (2, 4), (4, 1)):
        def at(c, i, j): return c, r+i, s+j
        for h,a,b,q in ((hy, y, p, k1), (hp, p, y, k2)):
            conv = F.conv2d(h[None], q[None])[0, 0, r, s]
            feats = sum((1-m[at(*n)])*a[at(*n)]*q[n] for n in near) + sum(m[at(*n)]*b[at(*n)]*q[n] for n in near)
            kernels = sum(a[at(*n)]*((1-m[at(*n)])*q[n]) for n in near) + sum(b[at(*n)]*(m[at(*n)]*q[n]) for n in near)
            assert torch.allclose(conv, feats, atol=1e-10) and torch.allclose(conv, kernels, atol=1e-10)

def test_mask_functions_branchwise():
    "The two-line forms of Eqs. 11-14."
    x = torch.linspace(-6, 9, 1501, dtype=torch.float64)
    n,e = x<0,x.exp()
    forms = dict(tanh_elu=torch.where(n, 2/(1+(-2*e).exp())-1, 2/(1+(-2*(x+1)).exp())-1),
        softsign_elu=torch.where(n, e/(e+1), (x+1)/(x+2)), tanh_relu=torch.where(n, 0, 2/(1+(-2*x).exp())-1),
        softsign_relu=torch.where(n, 0, x/(1+x)), sigmoid=1/(1+1/e))
    assert set(forms)=={*mask_acts}
    for a,want in forms.items(): assert torch.allclose(mask_fn(x, a), want, atol=1e-12)

def test_gate_gradient_is_truncated_only_in_the_gradient():
    s = torch.linspace(0, 1, 101, dtype=torch.float64, requires_grad=True)
    for clip in (None, 1, 3):
        g, = torch.autograd.grad(soft_step(s, .4, 20, clip).sum(), s)
        h = 1/(1+(-20*(s-.4)).exp())
        assert torch.allclose(soft_step(s, .4, 20, clip), h)
        assert torch.allclose(g, (20*h*(1-h)).clamp(max=clip or 99))

def oracle(w, y, p, x, q, feats=None, gain=20, K=3):
    "One sub-network, L=1 or more, by the words of the specification: bare functions on a state dict."
    def conv(v, n): return F.conv2d(v, w[f'{n}.weight'], w.get(f'{n}.bias'), padding=w[f'{n}.weight'].shape[-1]//2)
    def res(v, n): return v + conv(F.relu(conv(v, f'{n}.one')), f'{n}.two')
    def enc(v, n): return res(F.relu(conv(v, f'{n}.0')), f'{n}.2')
    L = 1 + max(int(n.split('.')[1]) for n in w if n.startswith('blocks'))
    for i in range(L):
        a,b = enc(y, f'blocks.{i}.enc_y'),enc(p, f'blocks.{i}.enc_p')
        m = torch.tanh(F.relu(res(a+b, f'blocks.{i}.mask')))
        m = 1/(1+torch.exp(-gain*(m-w[f'blocks.{i}.beta'])))
        y,p = (1-m)*a+m*b,(1-m)*b+m*a
        if i==0 and feats is not None:
            y,p = (v + g[..., ::g.shape[-2]//v.shape[-2], ::g.shape[-1]//v.shape[-1]] for v,g in zip((y, p), feats))
    for i in range(sum(n.startswith('up_y') and n.endswith('weight') for n in w)):
        y,p = (F.conv_transpose2d(v, w[f'up_{n}.{i}.weight'], w[f'up_{n}.{i}.bias'], 2, 1, 1) for v,n in ((y, 'y'), (p, 'p')))
    out = 0
    for h,img,n in ((y, x, 'filter_y'), (p, q.expand_as(x), 'filter_p')):
        k = conv(h, f'{n}.predictor').unflatten(1, (x.shape[1], K*K))
        pad = F.pad(img, (K//2,)*4, 'reflect')
        for t in range(K*K): out = out + k[:, :, t]*pad[..., t//K:t//K+x.shape[2], t%K:t%K+x.shape[3]]
    return out, (y, p)

def part(net, name): return {k[len(name)+1:]: v for k,v in net.state_dict().items() if k.startswith(f'{name}.')}

def test_base_equals_its_specification():
    net = PreMixBase(3, dim=6, layers=3).double()
    ms,pan = pair(3, dtype=torch.float64)
    y = upsample(ms, 4)
    assert torch.allclose(net(ms, pan), oracle(part(net, 'f'), y, pan, y, pan)[0], atol=1e-9)

def test_huge_equals_its_specification():
    "HP, HE, original; scales 4, 2, 1 by every 4th, 2nd pixel; results and features passed on; + Y."
    net = PreMixHuge(3, dim=6).double()
    ms,pan = pair(3, dtype=torch.float64)
    y = upsample(ms, 4)
    x,feats = y,None
    for b,f in (('hp', high_pass), ('he', lambda v: equalise(v, 'clahe')), ('orig', lambda v: v)):
        for s in (4, 2, 1):
            x,feats = oracle(part(net, f'nets.{b}{s}'), f(y)[..., ::s, ::s], f(pan)[..., ::s, ::s], x, pan, feats)
    assert torch.allclose(net(ms, pan), x+y, atol=1e-8)
    net.residual = False
    assert torch.allclose(net(ms, pan), x, atol=1e-8)

def test_knobs_change_what_they_say():
    ms,pan = pair()
    def run(cls, like=None, **kw):
        torch.manual_seed(1)
        return cls(dim=6, **kw)(ms, pan)
    b,h = run(PreMixBase),run(PreMixHuge)
    same = torch.equal
    assert same(run(PreMixBase, residual=True), b+upsample(ms, 4)) and same(run(PreMixBase, residual=False), b)
    assert same(run(PreMixHuge, residual=True), h) and torch.allclose(run(PreMixHuge, residual=False), h-upsample(ms, 4), atol=1e-6)
    for kw in (dict(mask_act='sigmoid'), dict(mixing='soft'), dict(mixing='step', beta=.1), dict(beta=.3), dict(gain=5), dict(ewfm=False),
               dict(pf=False)): assert not same(run(PreMixBase, **kw), b), kw
    for kw in (dict(he='global'), dict(sub='area'), dict(sub='bicubic'), dict(branches=('orig', 'he', 'hp'))): assert not same(run(PreMixHuge, **kw), h), kw
    assert same(run(PreMixBase, relu6=True), b) and same(run(PreMixBase, beta_grad_clip=1), b)

# --- use

@pytest.mark.parametrize('net', [PreMixBase(dim=4, layers=3), PreMixBase(dim=4, ewfm=False), PreMixBase(2, 2, dim=4, pf_kernel=5, pf=True),
    PreMixBase(dim=4, pf=False), PreMixBase(dim=4, k=5, layers=1), PreMixHuge(dim=4), PreMixHuge(3, 2, dim=4, layers=2, scales=(2, 1)),
    PreMixHuge(dim=4, sub='area', he='global'), PreMixHuge(dim=4, sub='bicubic', branches=('hp', 'orig'))], ids=lambda n: type(n).__name__)
def test_windows_with_their_halo_are_exact(net):
    "No gradient comes from beyond the halo, and a window fused alone equals its part of the scene."
    q,h = net.ratio,net.halo
    n = -(-(2*h+16)//16)*16
    ms,pan = pair(net.bands, q, n//q, n//q, dtype=torch.float64)
    net.double().eval()
    t = h + -h%4
    kw = dict(stats=pair_statistics(ms, pan, q, net.he)) if 'he' in getattr(net, 'branches', ()) else {}
    ms.requires_grad_(), pan.requires_grad_()
    x = net(ms, pan, **kw)
    gm,gp = torch.autograd.grad(x[..., t:t+8, t:t+8].sum(), (ms, pan))
    for g,s in ((gm, q), (gp, 1)):
        seen = g.abs().sum((0, 1)).nonzero()
        assert seen.min()>=(t-h)//s and seen.max()<(t+8+h)/s
    with torch.no_grad():
        at = dict(kw, at=(t-h, t-h)) if kw else {}
        lo,hi = t-h,t+8+h
        part = net(ms[..., lo//q:hi//q, lo//q:hi//q], pan[..., lo:hi, lo:hi], **at)
    assert torch.allclose(part[..., h:h+8, h:h+8], x[..., t:t+8, t:t+8], atol=1e-9)

def test_equalised_beforehand_is_the_same():
    net = PreMixHuge(dim=4)
    ms,pan = pair(h=9, w=7)
    assert torch.equal(net(ms, pan, he=equalised(ms, pan)), net(ms, pan))

@pytest.mark.parametrize('kw', [dict(), dict(mixing='soft', mask_act='sigmoid'), dict(ewfm=False), dict(beta_grad_clip=1.)])
def test_every_parameter_learns(kw):
    for net in (PreMixBase(**kw), PreMixHuge(dim=8, **kw)):
        (net(*pair(h=8, w=8))**2).mean().backward()
        assert [n for n,w in net.named_parameters() if w.grad is None or not w.grad.abs().sum()>0]==[]

def test_one_real_patch_is_learned(scenes):
    "Half width, a 64 pixel patch of a GaoFen scene: a tenth of the first loss."
    ms,pan,gt = (t[..., :16*s, :16*s]/1023 for t,s in zip(to_tensors(open_scene(scenes/'GF2rr_psdata3_tr0.nc')), (1, 4, 4)))
    net = PreMixBase(dim=16)
    opt,losses = torch.optim.Adam(net.parameters(), 5e-3),[]
    for _ in range(150):
        losses.append(F.l1_loss(net(ms, pan), gt))
        opt.zero_grad()
        losses[-1].backward()
        opt.step()
    assert losses[-1]<losses[0]/10
    assert losses[-1]<F.l1_loss(upsample(ms, 4), gt)

def test_wrong_words_are_refused():
    for kw,word in ((dict(mask_act='relu'), 'mask_act'), (dict(mixing='hard'), 'mixing')):
        with pytest.raises(ValueError, match=word): PreMixBase(**kw)
    for kw in (dict(branches=()), dict(branches=('hp', 'hp')), dict(branches=('low',)), dict(scales=(3, 1)), dict(scales=()), dict(scales=(2, 2)),
               dict(he='local'), dict(sub='cubic')):
        with pytest.raises(ValueError): PreMixHuge(**kw)
    assert isinstance(EWFM(4, 1).beta, nn.Parameter)

def test_no_tensor_is_made_on_the_cpu():
    "The meta device stands in for an accelerator: one CPU tensor in between would raise."
    for net in (PreMixBase(), PreMixBase(mixing='step', pf=False), PreMixHuge(sub='area'), PreMixHuge(sub='bicubic')):
        ms,pan = (t.to('meta') for t in pair())
        kw = dict(he=(torch.empty(1, 4, 32, 32, device='meta'), pan)) if hasattr(net, 'he') else {}
        x = net.to('meta')(ms, pan, **kw)
        assert x.device.type=='meta' and x.shape==(1, 4, 32, 32)
