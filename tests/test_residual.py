"Residual baselines: golden counts, independent forward passes, and the ways a user may call them."
import pytest, torch, torch.nn.functional as F
from pansharp_nb.data.scenes import to_tensors
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.layers.sizes import upsample
from pansharp_nb.models.baselines.bdpn import BDPN
from pansharp_nb.models.baselines.residual import DRPNN, MSDCNN, DiCNN1, FusionNet, PanNet, high_pass
from pansharp_nb.models.counting import macs, outline, parameters

few = dict(nf=8, blocks=2)
small = {FusionNet: few, PanNet: few, DiCNN1: dict(nf=8), DRPNN: few, MSDCNN: {}, BDPN: few}
each = pytest.mark.parametrize('net', small)

@pytest.fixture(autouse=True, scope='module')
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

def pair(bands=4, h=5, w=7, r=4, B=2, dtype=torch.float32):
    kw = dict(generator=torch.Generator().manual_seed(0), dtype=dtype)
    return torch.rand(B, bands, h, w, **kw), torch.rand(B, 1, r*h, r*w, **kw)

def make(net, bands=4, seed=0, **kw):
    torch.manual_seed(seed)
    return net(bands, **(small[net] | kw))

# parameters, MACs in G at PAN 256: 4 bands, 8 bands. BDPN's published count has one more: an activation never called
golden = [
    (FusionNet, 76324, 4.98, 78632, 5.13), (PanNet, 77640, 5.01, 83024, 5.17), (DiCNN1, 42180, 2.76, 46792, 3.06),
    (DRPNN, 418365, 27.40, 433465, 28.39), (MSDCNN, 189852, 12.42, 228556, 14.96),
    (BDPN, 1481273-1, 60.6, 1487069-1, 60.9)]

@pytest.mark.parametrize('net,p4,g4,p8,g8', golden)
def test_golden(net, p4, g4, p8, g8):
    for bands,p,g in (4, p4, g4), (8, p8, g8):
        n,x = outline(lambda: net(bands), bands)
        assert parameters(n)==p
        digits = 1 if net is BDPN else 2
        assert round(macs(n, x)/1e9, digits)==g, (bands, macs(n, x))

def test_drpnn_of_the_paper():
    n,x = outline(lambda: DRPNN(4, nf=64, last=3, relu=True))
    assert (parameters(n), round(macs(n, x)/1e9, 1))==(1637757, 107.3)

# forward passes written from the equations, without the package's modules; weights in order of construction

def weights(n): return iter([p.detach() for p in n.parameters()])

def conv(x, it):
    w,b = next(it),next(it)
    return F.conv2d(x, w, b, padding=w.shape[-1]//2)

def trunk(x, it, blocks):
    x = conv(x, it).relu()
    for _ in range(blocks): x = x+conv(conv(x, it).relu(), it)
    return conv(x, it)

def mean5(x): # by loops
    y = torch.empty_like(x)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]): y[:, :, i, j] = x[:, :, max(i-2, 0):i+3, max(j-2, 0):j+3].mean((2, 3))
    return y

def test_high_pass():
    x = pair(2, 6, 9)[0]
    assert torch.allclose(high_pass(x), x-mean5(x), atol=1e-6)

def fusionnet(ms, pan, it):
    up = upsample(ms, 4)
    return up+trunk(pan.repeat(1, ms.shape[1], 1, 1)-up, it, 2)

def pannet(ms, pan, it):
    d = F.conv_transpose2d(ms-mean5(ms), next(it), next(it), stride=4, padding=2)
    return upsample(ms, 4)+trunk(torch.cat([d, pan-mean5(pan)], 1), it, 2)

def dicnn1(ms, pan, it):
    up = upsample(ms, 4)
    x = torch.cat([up, pan], 1)
    for _ in range(2): x = conv(x, it).relu()
    return up+conv(x, it)

def drpnn(ms, pan, it):
    x = y = torch.cat([upsample(ms, 4), pan], 1)
    for _ in range(3): y = conv(y, it).relu()
    return conv(x+conv(y, it), it)

def msdcnn(ms, pan, it):
    x = y = torch.cat([upsample(ms, 4), pan], 1)
    for _ in range(2):
        y = conv(y, it).relu()
        y = (torch.cat([conv(y, it) for _ in range(3)], 1)+y).relu()
    y = conv(y, it)
    for _ in range(2): x = conv(x, it).relu()
    return (y+conv(x, it)).relu()

by_hand = {FusionNet: fusionnet, PanNet: pannet, DiCNN1: dicnn1, DRPNN: drpnn, MSDCNN: msdcnn}

@pytest.mark.parametrize('net', by_hand)
def test_forward_by_hand(net):
    n,(ms,pan) = make(net),pair()
    it = weights(n)
    want = by_hand[net](ms, pan, it)
    assert next(it, None) is None
    assert torch.allclose(n(ms, pan), want, atol=1e-5)

def test_bdpn_by_hand():
    n,(ms,pan) = make(BDPN, blocks=1),pair()
    s = n.state_dict()
    def c(x, k): return F.conv2d(x, s[k+'.weight'], s[k+'.bias'], padding=1)
    def level(f, l):
        k = f'downs.{l}.0.body.'
        return 2*f+c(F.prelu(c(f, k+'0'), s[k+'1.weight']), k+'2')
    f1 = level(c(pan, 'first'), 0)
    f2 = level(F.max_pool2d(f1, 2), 1)
    x2 = F.pixel_shuffle(c(ms, 'ups.0.0'), 2)+c(f2, 'detail')
    x1 = F.pixel_shuffle(c(x2, 'ups.1.0'), 2)+c(f1, 'detail')
    x,xs = n(ms, pan, aux=True)
    assert torch.allclose(x, x1, atol=1e-5) and torch.allclose(xs[0], x2, atol=1e-5) and len(xs)==2

@each
@pytest.mark.parametrize('bands,r,h,w', [(1, 4, 1, 1), (3, 2, 5, 4), (4, 4, 9, 7), (16, 2, 1, 6)])
def test_any_size(net, bands, r, h, w):
    ms,pan = pair(bands, h, w, r)
    keep = ms.clone(), pan.clone()
    x = make(net, bands, ratio=r)(ms, pan)
    assert x.shape==(2, bands, r*h, r*w) and x.isfinite().all()
    assert torch.equal(ms, keep[0]) and torch.equal(pan, keep[1])

@pytest.mark.parametrize('net', by_hand)
def test_ratio_3(net): assert make(net, ratio=3)(*pair(r=3)).shape==(2, 4, 15, 21)

@pytest.mark.parametrize('ratio', [1, 3, 6])
def test_bdpn_ratio(ratio):
    with pytest.raises(ValueError, match='power of 2'): BDPN(4, ratio=ratio)

@each
def test_wrong_shapes(net):
    n,(ms,pan) = make(net),pair()
    wrong = [(ms[:, :3], pan, 'built for 4 bands'), (ms, pan[..., 1:], 'wants a PAN'), (ms, pan[:1], 'batch')]
    wrong += [(ms, pan.repeat(1, 2, 1, 1), 'one PAN band'), (ms[0], pan[0], r'want ms \(B, C, h, w\)')]
    for m,p,says in wrong:
        with pytest.raises(ValueError, match=says): n(m, p)

@each
def test_dtype_and_modes(net):
    n,(ms,pan) = make(net).eval(),pair()
    with torch.no_grad():
        x = n(ms, pan)
        assert torch.allclose(n.double()(ms.double(), pan.double()), x.double(), atol=1e-5)
        n = n.float()
        last = n(ms.to(memory_format=torch.channels_last), pan.to(memory_format=torch.channels_last))
        assert torch.allclose(last, x, atol=1e-5)
        with torch.autocast('cpu', torch.bfloat16): y = n(ms, pan)
        assert (y.float()-x).abs().max()<.1
        assert torch.allclose(n(ms[1:], pan[1:]), x[1:], atol=1e-5) # an image does not see its batch

@each
def test_state_dict(net):
    a,b,x = make(net),make(net, seed=1),pair()
    assert not torch.equal(a(*x), b(*x))
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(*x), b(*x))

def idle(net, seed):
    n,(ms,pan) = make(net, seed=seed),pair()
    (n(ms, pan)-upsample(ms, 4)-.3).square().mean().backward()
    return {k for k,p in n.named_parameters() if p.grad is None or not p.grad.abs().sum()}

@each
def test_every_parameter_learns(net): assert not set.intersection(*[idle(net, i) for i in range(3)])

@pytest.mark.parametrize('bands', [4, 8])
def test_no_band_of_msdcnn_starts_black(bands):
    "A band that is negative everywhere would never get a gradient through the last ReLU."
    ms,pan = pair(bands, 8, 8)
    for seed in range(8): assert (make(MSDCNN, bands, seed)(ms, pan)>0).flatten(2).any(2).all(), seed

@pytest.mark.parametrize('net', [FusionNet, PanNet])
def test_brightness_cancels(net):
    n,(ms,pan) = make(net),pair()
    assert torch.allclose(n(ms+.2, pan+.2), n(ms, pan)+.2, atol=1e-5)

@pytest.mark.parametrize('net', [PanNet, DiCNN1, DRPNN])
def test_start(net):
    "Weights of variance 2/n, cut at two deviations of the uncut normal; no bias."
    torch.manual_seed(0)
    for c in net(4).modules():
        if not isinstance(c, torch.nn.Conv2d): continue
        n = c.weight[0].numel()
        assert not c.bias.any() and c.weight.abs().max()<=2*(2.6/n)**.5
        if c.weight.numel()>5000: assert abs(c.weight.var()*n/2-1)<.1

@each
def test_overfits(net):
    ms,pan,gt = [z/2047 for z in to_tensors(made_up('QB', size=32))]
    n,ls = make(net, **(dict(nf=16) if net is not MSDCNN else {})),[]
    opt = torch.optim.Adam(n.parameters(), lr=2e-3 if net is MSDCNN else 4e-3)
    for _ in range(60 if net is MSDCNN else 90):
        ls.append((n(ms, pan)-gt).square().mean())
        opt.zero_grad()
        ls[-1].backward()
        opt.step()
    assert min(ls[-5:])<ls[0]/5, (ls[0].item(), ls[-1].item())
