"SFINet and MSDDN: golden counts, independent forward passes, and their parts."
import pytest, torch, torch.nn.functional as F
from conftest import net, pair
from pansharp_nb.models.baselines.fourier import HIN, MSDDN, Dense, Fourier, Fuse, Mix, SFINet, spectrum
from pansharp_nb.models.counting import macs, macs_thop, outline, parameters

pytestmark = pytest.mark.usefixtures('one_thread')
both = pytest.mark.parametrize('kind', [SFINet, MSDDN])

# what they weigh

@pytest.mark.parametrize('n,want', [(32, 609628), (8, 85270)])
def test_sfinet_count(n, want): assert parameters(outline(lambda: SFINet(n=n))[0])==want

def test_sfinet_as_premix_prints_it():
    "Table 3: 35.47 G is the count of thop at eight bands. Bands touch the first and the last layer only."
    f,x = outline(lambda: SFINet(8), 8)
    assert round(macs_thop(f, x)/1e9, 2)==35.47
    assert parameters(f)==609628 + 4*9*32 + 4*(9*32+1)

@pytest.mark.parametrize('n,want', [(64, 2668372), (32, 670124), (16, 169048)])
def test_msddn_count(n, want):
    "With the layers that the public code never calls; SIDP's Table IV: 2668 K."
    assert parameters(outline(lambda: MSDDN(n=n, spare=True))[0])==want

@both
def test_macs_by_hand(kind):
    "Multiply-accumulates of every convolution, counted per pixel; pooled layers and the product of LU factors in the tolerance."
    f,x = outline(kind)
    N,half = 256**2,256*129 # pixels, coefficients
    def fourier(n): return N*3*n*n + half*2*3*n*n
    def fuse(n, sub): return N*((2*n)**2 + 2*n*n + 3*sub)
    def refine(n): return N*9*(3*n*n + 4*n)
    if kind is SFINet:
        n = 32
        def two(a, b): return 9*a*b + 9*b*b + a*b
        stage = N*10*n*n + fuse(n, two(n, 8)+two(8, 8)+9*(n+16)*n) + fourier(n) + N*9*n*n + N*18*n*n
        want = N*9*5*n + 5*stage + N*5*n*n + refine(n)
    else:
        n = 64
        scales = N*9*5*n + N*18*n*n + N//4*18*n*n                                # heads, the two blocks of PAN
        inner = fuse(n, 18*n*n)
        scales += inner + inner/4 + inner/16 + 2*(N//4)*9*n*n + 2*(N//16)*9*n*n  # down
        small_half = 128*65
        guide = N*19*n*n
        scales += 2*(fourier(n)+guide) + N//4*3*n*n + small_half*6*n*n + guide/4 # up
        want = scales + refine(n)
    assert abs(macs(f, x)/want-1)<1e-3

# what they compute

def lu(s, k, x):
    n = x.shape[1]
    w = s[k+'p'] @ (s[k+'l'].tril(-1)+torch.eye(n, dtype=x.dtype)) @ (s[k+'u'].triu(1)+torch.diag(s[k+'sign']*s[k+'log_s'].exp()))
    return torch.einsum('oi,bihw->bohw', w, x)

class Oracle:
    "The published forward passes in plain functions of a state dict."
    def __init__(self, net): self.s = net.state_dict()
    def c(self, k, x, stride=1):
        w = self.s[k+'.weight']
        return F.conv2d(x, w, self.s[k+'.bias'], stride, w.shape[-1]//2)
    def two(self, k, x, act): return self.c(k+'.2', act(self.c(k+'.0', x)))

    def fourier(self, k, m, p):
        a,b = (torch.fft.rfft2(self.c(f'{k}.{i}', z)) for i,z in (('ms', m), ('pan', p)))
        def act(x): return F.leaky_relu(x, .1)
        A = self.two(k+'.amplitude', torch.cat([a.abs(), b.abs()], 1), act)
        ph = self.two(k+'.phase', torch.cat([a.angle(), b.angle()], 1), act)
        return self.c(k+'.post', torch.fft.irfft2(torch.complex(A*ph.cos(), A*ph.sin()), s=m.shape[2:]).abs())

    def fuse(self, k, m, p, sub):
        n = m.shape[1]
        x = lu(self.s, k+'.mix.', torch.cat([m, p], 1))
        a = x[:, :n] + sub(k+'.f', x[:, n:])
        scale = torch.exp(.8*(2*torch.sigmoid(sub(k+'.h', a))-1))
        return self.c(k+'.post', torch.cat([a, x[:, n:]*scale + sub(k+'.g', a)], 1))

    def dense(self, k, x):
        def two(k, x):
            y = F.leaky_relu(self.c(k+'.body.2', F.leaky_relu(self.c(k+'.body.0', x), .1)), .1)
            return F.leaky_relu(y+self.c(k+'.skip', x), .2)
        a = two(k+'.a', x)
        return F.leaky_relu(self.c(k+'.out', torch.cat([x, a, two(k+'.b', a)], 1)), .2)

    def hin(self, k, x):
        y = F.leaky_relu(self.c(k+'.a', x), .2)
        n = y.shape[1]//2
        a = y[:, :n]
        a = (a-a.mean((2, 3), keepdim=True))/(a.var((2, 3), correction=0, keepdim=True)+1e-5).sqrt()
        a = a*self.s[k+'.norm.weight'][:, None, None] + self.s[k+'.norm.bias'][:, None, None]
        return x + F.leaky_relu(self.c(k+'.b', torch.cat([a, y[:, n:]], 1)), .2)

    def refine(self, k, x):
        x = self.c(k+'.first', x)
        y = self.two(k+'.body', x, F.relu).mean((2, 3), keepdim=True)
        return self.c(k+'.last', x + y*self.two(k+'.gate', y, F.relu).sigmoid())

    def sfinet(self, up, pan, K=2):
        m,p,xs = self.c('ms', up),self.c('pan', pan),[]
        def act(x): return F.leaky_relu(x, .1)
        for k in (f'stages.{i}' for i in range(K)):
            p = self.c(k+'.pan', p)
            q = self.c(k+'.pan1', p)
            s,f = self.fuse(k+'.space', m, q, self.dense),self.fourier(k+'.fourier', m, q)
            z = torch.cat([f*self.two(k+'.where', s-f, act).sigmoid()+s, f], 1)
            mean = z.mean((2, 3), keepdim=True)
            w = self.two(k+'.which', mean + (z-mean).square().mean((2, 3), keepdim=True).sqrt(), act).sigmoid()
            m = self.c(k+'.post', w*z) + m
            xs.append(m)
        return self.refine('refine', self.c('merge', torch.cat(xs, 1))) + up

    def guide(self, k, x, p): return self.two(k+'.mix', torch.cat([self.fourier(k+'.fourier', x, p), x], 1), F.relu)

    def msddn(self, up, pan):
        m,p = self.c('ms', up),self.c('pan', pan)
        seen = [p, self.hin('pan1', p)]
        x = self.fuse('fuse.0', m, p, self.hin)
        d = self.c('pan_down.0', seen[-1], 2)
        x = self.fuse('fuse.1', self.c('down.0', x, 2), d, self.hin)
        seen.append(self.hin('pan2', d))
        x = self.fuse('fuse.2', self.c('down.1', x, 2), self.c('pan_down.1', seen[-1], 2), self.hin)
        for i in range(3):
            if i<2: x = F.interpolate(x, seen[-1-i].shape[2:], mode='bicubic', align_corners=True)
            y = self.guide(f'guide.{i}', x, seen[-1-i])
            x = y if i==2 else y+x
        return self.refine('refine', x) + up

@both
@torch.no_grad()
def test_forward_against_an_independent_one(kind):
    f,(ms,pan) = net(kind).double(),pair(h=8, w=8, dtype=torch.float64) # 32 x 32: this FFT makes no rounding at its real bins
    up = F.interpolate(ms, scale_factor=4, mode='bicubic')
    want = getattr(Oracle(f), kind.__name__.lower())(up, pan)
    assert (f(ms, pan)-want).abs().max()<1e-10
    assert (want-up).abs().max()>1e-3

@pytest.mark.parametrize('sub', [Dense, HIN])
@torch.no_grad()
def test_blocks_are_invertible(sub):
    torch.manual_seed(0)
    f,x = Fuse(8, sub).double(),torch.randn(2, 16, 7, 5, dtype=torch.float64)
    for p in f.parameters(): p += .1*torch.randn_like(p)
    a,b = f.couple(x).chunk(2, 1)
    b = (b-f.g(a))/(.8*(2*f.h(a).sigmoid()-1)).exp()
    back = torch.einsum('oi,bihw->bohw', f.mix.weight().inverse(), torch.cat([a-f.f(b), b], 1))
    assert (back-x).abs().max()<1e-9

def test_mixing_starts_as_a_rotation_and_keeps_its_signs():
    torch.manual_seed(0)
    m = Mix(12).double()
    w = m.weight()
    assert (w@w.T-torch.eye(12)).abs().max()<1e-6
    sign = torch.linalg.slogdet(w)[0]
    with torch.no_grad():
        for p in m.parameters(): p += torch.randn_like(p)
    assert torch.linalg.slogdet(m.weight())[0]==sign

@pytest.mark.parametrize('h,w', [(36, 44), (5, 8), (7, 9), (1, 1), (28, 52)])
def test_spectrum_is_the_same_in_any_precision(h, w):
    x = torch.randn(2, 3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a,p = spectrum(x)
    assert (torch.fft.irfft2(torch.polar(a, p), s=(h, w))-x).abs().max()<1e-12
    b,q = spectrum(x.float())
    turn = (torch.polar(torch.ones_like(p), p)-torch.polar(torch.ones_like(q), q)).abs()
    assert (p-q).abs().max()<1e-3 and turn.max()<1e-3 and (a-b).abs().max()<1e-4
    assert spectrum(x.bfloat16())[0].dtype==torch.float32

def test_flat_features_have_finite_gradients():
    torch.manual_seed(0)
    for x in (torch.zeros(1, 8, 8, 8), torch.ones(1, 8, 8, 8)):
        f = Fourier(8)
        f(x.requires_grad_(), x).sum().backward()
        assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in f.parameters())

@torch.no_grad()
def test_spare_layers_change_nothing():
    f,g = net(MSDDN),net(MSDDN, spare=True)
    missing,extra = f.load_state_dict(g.state_dict(), strict=False)
    assert not missing and extra and all('spare' in k for k in extra)
    assert torch.equal(f(*pair()), g(*pair()))
