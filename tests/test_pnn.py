"PNN, A-PNN, Z-PNN and lambda-PNN: golden counts, properties, and tuning on the image itself."
import copy
from functools import partial
import pytest, torch, torch.nn.functional as F
from conftest import net, pair
from pansharp_nb.data.scenes import to_tensors
from pansharp_nb.data.sensors import sensor
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.losses import l1, lambda_pnn_loss, spectral_l1, zpnn_loss
from pansharp_nb.models.baselines.pnn import APNN, CBAM, LambdaPNN, PNN, ZPNN, adapt, pnn_rate, slow_last, zero_shot
from pansharp_nb.models.counting import macs, macs_thop, outline, parameters

pytestmark = pytest.mark.usefixtures('one_thread')

def scene(name='GE1', size=64, seed=7): return to_tensors(made_up(name, size=size, seed=seed))

def same(a, b): return all(torch.equal(x, y) for x,y in zip(a.state_dict().values(), b.state_dict().values()))

# --- counts

golden = [(PNN, 4, 80420), (PNN, 8, 104360), (APNN, 4, 61124), (APNN, 8, 79880), (ZPNN, 4, 61124), (ZPNN, 8, 79880),
    (LambdaPNN, 4, 198442), (LambdaPNN, 8, 207150)]

@pytest.mark.parametrize('cls,bands,want', golden)
def test_parameters(cls, bands, want): assert parameters(outline(lambda: cls(bands), bands)[0])==want

@pytest.mark.parametrize('cls,bands,giga', [(PNN, 4, 4.83), (PNN, 8, 6.29), (APNN, 4, 3.67), (APNN, 8, 4.81)])
def test_macs_without_the_border(cls, bands, giga):
    "As published, 256 pixels go in and 240 come out."
    f,(_,pan) = outline(lambda: cls(bands), bands)
    x = pan.expand(-1, bands+1, -1, -1)
    assert f.layers(x).shape[-2:]==(240, 240)
    for count in (macs, macs_thop): assert round(count(f.layers, (x,))/1e9, 2)==giga

@pytest.mark.parametrize('cls,nf', [(PNN, (64, 32)), (APNN, (48, 32))])
def test_macs_of_the_full_size(cls, nf):
    "Layer sizes by hand: 272 -> 264 -> 260 -> 256."
    want = 5*nf[0]*81*264**2 + nf[0]*nf[1]*25*260**2 + nf[1]*4*25*256**2
    assert macs(*outline(lambda: cls(4)))==want

@pytest.mark.parametrize('bands,giga', [(4, 12.701), (8, 13.27)])
def test_macs_of_lambda(bands, giga): assert abs(macs(*outline(lambda: LambdaPNN(bands), bands))/1e9-giga)<.002

def test_premix_counted_small_kernels():
    f,x = outline(lambda: ZPNN(4, kernels=(3, 3, 3), same=True))
    assert (parameters(f), round(macs(f, x)/1e9, 3))==(17220, 1.123)

# --- the networks

@torch.no_grad()
def test_forward_by_hand():
    "PNN is three convolutions of the stack; A-PNN adds the upsampled MS."
    ms,pan = pair(dtype=torch.float64)
    up = F.interpolate(ms, scale_factor=4, mode='bicubic', align_corners=False)
    for cls in (PNN, APNN):
        f = net(cls).double()
        s,z = f.state_dict(),F.pad(torch.cat([up, pan], 1), (8,)*4, 'replicate')
        for i in (0, 2, 4):
            z = F.conv2d(z, s[f'layers.{i}.weight'], s[f'layers.{i}.bias'])
            if i<4: z = z.relu()
        assert (f(ms, pan)-(z+up if cls is APNN else z)).abs().max()<1e-12

@torch.no_grad()
def test_lambda_by_hand():
    "The forward pass from a state dict, without the package's modules."
    f,(ms,pan) = net(LambdaPNN).double(),pair(dtype=torch.float64)
    s = f.state_dict()
    def conv(x, k):
        n = s[k+'.weight'].shape[-1]//2
        return F.conv2d(F.pad(x, (n,)*4, 'reflect') if n else x, s[k+'.weight'], s[k+'.bias'])
    def cbam(x, k):
        def m(v): return conv(conv(v, k+'.channel.0').relu(), k+'.channel.2')
        y = x*torch.sigmoid(m(F.adaptive_avg_pool2d(x, 1)) + m(F.adaptive_max_pool2d(x, 1)))
        return y*torch.sigmoid(conv(torch.stack([y.max(1).values, y.mean(1)], 1), k+'.pixel'))
    up = F.interpolate(ms, scale_factor=4, mode='bicubic', align_corners=False)
    x = conv(conv(torch.cat([up, pan], 1), 'enter.0').relu(), 'enter.2').relu()
    x = x+cbam(x, 'first')
    for i in (0, 1): x = x+conv(F.gelu(conv(x, f'body.{i}.0')), f'body.{i}.2')
    x = conv(x+cbam(x, 'second'), 'leave')+up
    assert (f(ms, pan)-x).abs().max()<1e-12

@torch.no_grad()
def test_attention_only_damps():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 9, 7)
    assert (CBAM(8)(x).abs()<=x.abs()).all()

def test_initial_weights_of_apnn():
    torch.manual_seed(0)
    w = APNN(8).layers[2].weight.detach()
    s = (2.6/(48*25))**.5
    assert w.abs().max()<=2*s and abs(w.std()/(.8796*s)-1)<.05 # a normal cut at two deviations has 0.88 of the deviation

# --- tuning on the image

def test_rate_is_a_mean_of_the_published_sum():
    "Sum over C bands of 17 x 17 pixels at 1e-4 and mean at `pnn_rate` make the same step."
    x,y = torch.rand(1, 4, 17, 17, requires_grad=True),torch.rand(1, 4, 17, 17)
    a, = torch.autograd.grad(1e-4*(x-y).abs().sum(), x)
    b, = torch.autograd.grad(pnn_rate(4)*l1(x, y), x)
    assert torch.allclose(a, b, rtol=1e-5)

def test_last_layer_is_slow():
    f = net(APNN)
    a,b = slow_last(f, .1)
    assert [id(p) for g in (a, b) for p in g['params']]==[id(p) for p in f.parameters()]
    assert b['lr']==.1/10 and [p is q for p,q in zip(b['params'], f.layers[-1].parameters())]==[True, True]

@pytest.mark.parametrize('scaling', ['peak', 'scene'])
def test_adapt(scaling):
    "Lower loss, original untouched, same every time, also where no gradients are kept."
    f,(ms,pan,_),log,log2 = net(APNN),scene(),[],[]
    f.requires_grad_(False).train()
    before,state = copy.deepcopy(f),torch.get_rng_state()
    g = adapt(f, ms, pan, 'GE1', steps=20, scaling=scaling, log=log)
    with torch.no_grad(): h = adapt(f, ms, pan, 'GE1', steps=20, scaling=scaling, log=log2)
    assert torch.equal(state, torch.get_rng_state())
    assert same(f, before) and f.training and not any(p.requires_grad for p in f.parameters())
    assert same(g, h) and log==log2 and not same(f, g) and not g.training
    assert len(log)==21 and min(log)<log[0]

def test_tuned_is_the_best_seen():
    "A rate so high that the loss explodes gives the start back."
    f,(ms,pan,_) = net(APNN),scene()
    log = []
    g = adapt(f, ms, pan, 'GE1', steps=5, lr=1e6, log=log)
    assert same(f, g) and max(log)>log[0]==min(log)
    assert same(f, adapt(f, ms, pan, 'GE1', steps=0))

def test_adapt_learns_on_walds_pair():
    "With the result of Wald's protocol as input, the loss of the tuned network is the lowest in the log."
    from pansharp_nb.data.degrade import wald
    f,(ms,pan,_),log = net(APNN),scene(),[]
    g = adapt(f, ms, pan, 'GE1', steps=10, log=log)
    a,b,gt = (z/2047 for z in wald(ms, pan, 'GE1'))
    with torch.no_grad(): assert l1(f(a, b), gt).item()==pytest.approx(log[0], rel=1e-5)
    with torch.no_grad(): assert l1(g(a, b), gt).item()==pytest.approx(min(log), rel=1e-5)

@pytest.mark.parametrize('tune', [adapt, zero_shot])
def test_bands_are_seen_in_the_order_of_wavelength(tune):
    "As in `as_method`: the same image with its bands shuffled tunes the same network."
    f,(ms,pan,_),s = net(APNN),scene(),sensor('QB')
    order = [2, 0, 3, 1]
    a = tune(f, ms, pan, s, steps=3)
    b = tune(f, ms[:, order], pan, s.select([s.bands[i] for i in order]), steps=3)
    assert same(a, b)

@pytest.mark.parametrize('cls,loss', [(ZPNN, zpnn_loss), (LambdaPNN, lambda_pnn_loss)])
def test_zero_shot(cls, loss):
    f,(ms,pan,_),log,log2 = net(cls),scene(),[],[]
    before = copy.deepcopy(f)
    g = zero_shot(f, ms, pan, 'GE1', 6, loss, log=log)
    with torch.no_grad(): h = zero_shot(f, ms, pan, 'GE1', 6, loss, log=log2)
    assert same(f, before) and same(g, h) and log==log2 and not same(f, g)
    assert len(log)==7 and log[-1]<log[0]

def test_zero_shot_rates_by_sensor():
    "One step of Adam moves a weight by the rate, whatever the gradient."
    for name,loss,lr in (('WV2', zpnn_loss, 1e-5), ('WV3', lambda_pnn_loss, 4e-5), ('GE1', zpnn_loss, 5e-5), ('QB', lambda_pnn_loss, 5e-5)):
        ms,pan,_ = scene(name)
        f = net(ZPNN, ms.shape[1])
        g = zero_shot(f, ms, pan, name, 1, loss)
        moved = max((a-b).abs().max().item() for a,b in zip(f.parameters(), g.parameters()))
        assert moved==pytest.approx(lr, rel=.05), name

def test_zero_shot_with_a_loss_of_ones_own():
    f,(ms,pan,_),log = net(ZPNN),scene(),[]
    zero_shot(f, ms, pan, 'GE1', 3, partial(zpnn_loss, beta=0), lr=1e-3, log=log)
    x = f(ms/2047, pan/2047)
    assert log[0]==pytest.approx(spectral_l1(x, ms/2047, 'GE1').item(), rel=1e-5) and log[-1]<log[0]

def test_bad_tuning_is_refused():
    f,(ms,pan,_) = net(APNN),scene()
    for tune in (adapt, zero_shot):
        with pytest.raises(ValueError, match='choose peak'): tune(f, ms, pan, 'GE1', scaling='max')
        with pytest.raises(ValueError): tune(f, ms, pan[..., 1:], 'GE1')
