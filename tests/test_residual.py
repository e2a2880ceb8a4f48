"Residual baselines: golden counts, independent forward passes, and how they start."
import pytest, torch, torch.nn.functional as F
from conftest import net, pair
from pansharp_nb.layers.sizes import upsample
from pansharp_nb.models.baselines.bdpn import BDPN
from pansharp_nb.models.baselines.residual import DRPNN, MSDCNN, DiCNN1, FusionNet, PanNet, box_high_pass
from pansharp_nb.models.counting import macs, outline, parameters

pytestmark = pytest.mark.usefixtures('one_thread')

# parameters, MACs in G at PAN 256: 4 bands, 8 bands. BDPN's published count has one more: an activation never called
golden = [
    (FusionNet, 76324, 4.98, 78632, 5.13), (PanNet, 77640, 5.01, 83024, 5.17), (DiCNN1, 42180, 2.76, 46792, 3.06),
    (DRPNN, 418365, 27.40, 433465, 28.39), (MSDCNN, 189852, 12.42, 228556, 14.96),
    (BDPN, 1481273-1, 60.6, 1487069-1, 60.9)]

@pytest.mark.parametrize('cls,p4,g4,p8,g8', golden)
def test_golden(cls, p4, g4, p8, g8):
    for bands,p,g in (4, p4, g4), (8, p8, g8):
        n,x = outline(lambda: cls(bands), bands)
        assert parameters(n)==p
        digits = 1 if cls is BDPN else 2
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
    assert torch.allclose(box_high_pass(x), x-mean5(x), atol=1e-6)

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

@pytest.mark.parametrize('cls', by_hand)
def test_forward_by_hand(cls):
    n,(ms,pan) = net(cls),pair()
    it = weights(n)
    want = by_hand[cls](ms, pan, it)
    assert next(it, None) is None
    assert torch.allclose(n(ms, pan), want, atol=1e-5)

def test_bdpn_by_hand():
    n,(ms,pan) = net(BDPN, blocks=1),pair()
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

@pytest.mark.parametrize('ratio', [1, 3, 6])
def test_bdpn_ratio(ratio):
    with pytest.raises(ValueError, match='power of 2'): BDPN(4, ratio=ratio)

@pytest.mark.parametrize('bands', [4, 8])
def test_no_band_of_msdcnn_starts_black(bands):
    "A band that is negative everywhere would never get a gradient through the last ReLU."
    ms,pan = pair(bands, 8, 8)
    for seed in range(8): assert (net(MSDCNN, bands, seed)(ms, pan)>0).flatten(2).any(2).all(), seed

@pytest.mark.parametrize('cls', [FusionNet, PanNet])
def test_brightness_cancels(cls):
    n,(ms,pan) = net(cls),pair()
    assert torch.allclose(n(ms+.2, pan+.2), n(ms, pan)+.2, atol=1e-5)

@pytest.mark.parametrize('cls', [PanNet, DiCNN1, DRPNN])
def test_start(cls):
    "Weights of variance 2/n, cut at two deviations of the uncut normal; no bias."
    torch.manual_seed(0)
    for c in cls(4).modules():
        if not isinstance(c, torch.nn.Conv2d): continue
        n = c.weight[0].numel()
        assert not c.bias.any() and c.weight.abs().max()<=2*(2.6/n)**.5
        if c.weight.numel()>5000: assert abs(c.weight.var()*n/2-1)<.1
