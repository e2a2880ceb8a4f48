"TFNet: golden counts, the equations written out again, and the ways a user may call it."
import pytest, torch, torch.nn.functional as F
from pansharp_nb.data.scenes import to_tensors
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.losses import l1
from pansharp_nb.models.baselines.tfnet import TFNet
from pansharp_nb.models.counting import macs, macs_thop, outline, parameters

@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

def pair(bands=4, h=9, w=6, r=4, B=2, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    return torch.rand(B, bands, h, w, generator=g, dtype=dtype), torch.rand(B, 1, r*h, r*w, generator=g, dtype=dtype)

def net(seed=0, **kw):
    torch.manual_seed(seed)
    return TFNet(**(dict(n=4) | kw)).eval()

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
    n,(ms,pan) = net(bands=5).double(),pair(5, dtype=torch.float64)
    with torch.no_grad(): torch.testing.assert_close(n(ms, pan), by_hand(n.state_dict(), ms, pan), rtol=1e-12, atol=1e-12)

def test_padding():
    "Ratio 2, sides that 4 does not divide: the same as a pair that was padded by hand."
    n,(ms,pan) = net(ratio=2),pair(h=5, w=3, r=2)
    with torch.no_grad():
        x = n(ms, pan)
        y = n(F.pad(ms, (0, 1, 0, 1), 'replicate'), F.pad(pan, (0, 2, 0, 2), 'replicate'))
    assert x.shape[2:]==(10, 6) and torch.equal(x, y[..., :10, :6])

def test_start():
    "He, fan-out: the deviation of each convolution is sqrt(2 / (outputs * kernel)); biases are zero."
    for m in net(n=16).modules():
        if isinstance(m, torch.nn.Conv2d):
            want = (2/(m.out_channels*m.kernel_size[0]**2))**.5
            assert not m.bias.any() and abs(m.weight.std()/want-1)<.2

@pytest.mark.parametrize('bands,r,h,w', [(1, 4, 5, 3), (3, 2, 7, 9), (4, 4, 4, 4), (8, 8, 3, 2), (4, 4, 1, 1)])
def test_shapes(bands, r, h, w):
    "Any bands, ratio and size; the input is left as it was."
    n,(ms,pan) = net(bands=bands, ratio=r),pair(bands, h, w, r)
    before = ms.clone(),pan.clone()
    with torch.no_grad(): x = n(ms, pan)
    assert x.shape==(2, bands, r*h, r*w) and x.isfinite().all()
    assert torch.equal(before[0], ms) and torch.equal(before[1], pan)

def test_wrong_shapes():
    n,(ms,pan) = net(),pair()
    wrong = (ms[:, :3], pan, 'built for 4 bands'), (ms, pan[..., 1:], 'wants a PAN of'), (ms, ms, 'one PAN band')
    for m,p,why in (*wrong, (ms[0], pan[0], 'want ms')):
        with pytest.raises(ValueError, match=why): n(m, p)

def test_both_inputs_matter():
    n,(ms,pan) = net(),pair()
    with torch.no_grad(): assert not torch.equal(n(ms, pan), n(0*ms, pan)) and not torch.equal(n(ms, pan), n(ms, 0*pan))

def test_ways_to_call():
    "One image of a batch alone, channels last, autocast, a copied state."
    n,(ms,pan) = net(),pair()
    last = dict(memory_format=torch.channels_last)
    with torch.no_grad():
        x = n(ms, pan)
        torch.testing.assert_close(n(ms[:1], pan[:1]), x[:1], rtol=1e-4, atol=1e-5)
        with torch.autocast('cpu', torch.bfloat16): y = n(ms, pan)
        m = net(1)
        m.load_state_dict(n.state_dict())
        assert torch.equal(m(ms, pan), x)
        torch.testing.assert_close(n.to(**last)(ms.to(**last), pan.to(**last)), x, rtol=1e-4, atol=1e-5)
    assert (y.float()-x).abs().max()<.05*x.abs().max()

def test_learns():
    "Every parameter gets a gradient; one made-up patch is fitted."
    n = net(n=8).train()
    ms,pan,gt = (z/2047 for z in to_tensors(made_up('QB', size=32)))
    opt,ls = torch.optim.Adam(n.parameters(), lr=2e-3),[]
    for _ in range(40):
        l = l1(n(ms, pan), gt)
        opt.zero_grad()
        l.backward()
        ls.append(l.item())
        if len(ls)==1: assert all(p.grad is not None and p.grad.abs().sum()>0 for p in n.parameters())
        opt.step()
    assert ls[-1]<ls[0]/5
