"AWFLN: golden counts, an independent forward pass, and its parts."
import pytest, torch, torch.nn.functional as F
from conftest import net, pair
from pansharp_nb.layers.sizes import upsample
from pansharp_nb.models.baselines.awfln import AWFLN, AFLB, RMRS, Taps
from pansharp_nb.models.counting import macs, macs_thop, outline, parameters

pytestmark = pytest.mark.usefixtures('one_thread')

@pytest.mark.parametrize('bands,p,g', [(4, 162419, 10.4), (8, 174383, 10.7)])
def test_count(bands, p, g):
    n,x = outline(lambda: AWFLN(bands), bands)
    assert parameters(n)==p and round(macs(n, x)/1e9, 1)==g
    products = 2*(60*9*60+30*9*30)*256**2 # thop does not see them; it sees norms and activations
    assert 0<macs_thop(n, x)-(macs(n, x)-products)<.02*macs(n, x)
    if bands==4: assert round(macs_thop(n, x)/1e9, 1)==5.1

def test_spare():
    "Without the unused upsampler: fewer parameters, the same result."
    f,g,x = net(AWFLN),net(AWFLN, spare=False),pair()
    assert sum(p.numel() for p in f.parameters())-sum(p.numel() for p in g.parameters())==9*4*16+16+1
    g.load_state_dict({k: v for k,v in f.state_dict().items() if not k.startswith('spare')})
    assert torch.equal(f(*x), g(*x))

def taps(x, t):
    d = t.state_dict()
    z = F.conv2d(x, d['score.weight'], d['score.bias'], padding=1)
    s = F.conv2d(torch.stack([z.mean(1), z.max(1)[0]], 1), d['where.weight'], padding=3).sigmoid()
    c = F.conv1d(F.adaptive_max_pool2d(z, 1).flatten(1)[:, None], d['which.weight'], padding=3).sigmoid()[:, 0]
    y = F.conv2d(s*c[:, :, None, None], d['mix.0.weight'], d['mix.0.bias'], padding=1)
    y = (y-d['mix.1.running_mean'].view(-1, 1, 1))/(d['mix.1.running_var'].view(-1, 1, 1)+1e-5).sqrt()
    return (y*d['mix.1.weight'].view(-1, 1, 1)+d['mix.1.bias'].view(-1, 1, 1)).relu().sigmoid()

def aflb(x, f):
    "Tap by tap: shift, weigh, mix the channels, add."
    a,(H,W),z = taps(x, f.taps),x.shape[2:],F.pad(x, (1, 1, 1, 1))
    return sum(torch.einsum('oi,bihw->bohw', f.weight[:, :, k//3, k%3], a[:, k:k+1]*z[..., k//3:k//3+H, k%3:k%3+W]) for k in range(9))

def rmrs(x, f):
    y = torch.cat([F.conv2d(x, c.weight, c.bias, padding=d, dilation=d) for d,c in zip((1, 2, 3), f.reach)], 1)
    return (x + aflb(aflb(y, f.learn[0]), f.learn[1])).relu()

def oracle(f, ms, pan):
    d = f.state_dict()
    def conv(x, k): return F.conv2d(x, d[k+'.weight'], d[k+'.bias'], padding=1)
    own = F.prelu(F.pixel_shuffle(conv(ms, 'up.0'), 4), d['up.2.weight'])
    a = F.prelu(conv(upsample(ms, 4), 'ms.0'), d['ms.1.weight'])
    b = F.prelu(conv(torch.cat([own, pan], 1), 'pan.0'), d['pan.1.weight'])
    x = F.prelu(conv(rmrs(torch.cat([a, b], 1), f.body[0]), 'body.1.0'), d['body.1.1.weight'])
    return upsample(ms, 4) + conv(rmrs(x, f.body[2]), 'body.3')

def test_forward():
    f,x = net(AWFLN).double(),pair(dtype=torch.float64)
    with torch.no_grad(): torch.testing.assert_close(f(*x), oracle(f, *x))

def test_parts():
    x = torch.randn(2, 6, 9, 7)
    a = Taps(6)(x)
    assert a.shape==(2, 9, 9, 7) and a.min()>=.5 and a.max()<=1
    torch.manual_seed(0)
    f = AFLB(6)
    assert f.weight.abs().max()<=(6*9)**-.5+1e-6 # PyTorch's own start, within RMRS too
    r = RMRS(60)
    assert r.learn[0].weight.abs().max()<=(60*9)**-.5+1e-6 and not r.reach[0].bias.any()
    assert abs(r.reach[0].weight.std()/(2/(9*20))**.5-1)<.05
