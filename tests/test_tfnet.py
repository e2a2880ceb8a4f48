"TFNet: golden counts, the equations written out again, and how it starts."
import pytest, torch, torch.nn.functional as F
from conftest import net, pair
from pansharp_nb.models.baselines.tfnet import TFNet
from pansharp_nb.models.counting import macs, macs_thop, outline, parameters

pytestmark = pytest.mark.usefixtures('one_thread')

def test_count():
    "SIDP's Table IV: 2362 K. Bands touch the first and the last layer only. thop charges transposed convolutions four times."
    n,x = outline(TFNet)
    assert parameters(n)==2362869
    assert parameters(outline(lambda: TFNet(8), 8)[0])==2362869 + 4*9*32 + 4*(9*64+1)
    assert round(macs(n, x)/1e9, 1)==27.5 and round(macs_thop(n, x)/1e9, 1)==30.7

def by_hand(s, ms, pan):
    "From the weights in their order: PAN encoder, MS encoder, two halvings, fusion, halving, two decoders, painter."
    w = iter(s.values())
    def layer(x, f, **kw):
        y = f(x, next(w), next(w), **kw)
        return F.prelu(y, next(w))
    def conv(x, k): # `k` 3x3 convolutions
        for _ in range(k): x = layer(x, F.conv2d, padding=1)
        return x
    p = conv(pan, 2)
    m = conv(F.interpolate(ms, scale_factor=4, mode='bicubic', align_corners=False), 2)
    f = conv(torch.cat([layer(p, F.conv2d, stride=2), layer(m, F.conv2d, stride=2)], 1), 2)
    x = layer(conv(layer(f, F.conv2d, stride=2), 2), F.conv_transpose2d, stride=2)
    x = layer(conv(torch.cat([x, f], 1), 2), F.conv_transpose2d, stride=2)
    x = F.conv2d(conv(torch.cat([x, m, p], 1), 2), next(w), next(w), padding=1).tanh()
    assert next(w, None) is None
    return x

def test_equations():
    n,(ms,pan) = net(TFNet, 5).double(),pair(5, dtype=torch.float64)
    with torch.no_grad(): torch.testing.assert_close(n(ms, pan), by_hand(n.state_dict(), ms, pan), rtol=1e-12, atol=1e-12)

def test_start():
    "He, fan-out: the deviation of each convolution is sqrt(2 / (outputs * kernel)); biases are zero."
    for m in net(TFNet, n=16).modules():
        if isinstance(m, torch.nn.Conv2d):
            want = (2/(m.out_channels*m.kernel_size[0]**2))**.5
            assert not m.bias.any() and abs(m.weight.std()/want-1)<.2
