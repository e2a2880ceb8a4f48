"GPPNN: golden counts, and the equations written out again."
import pytest, torch, torch.nn.functional as F
from conftest import net, pair
from pansharp_nb.models.baselines.gppnn import GPPNN
from pansharp_nb.models.counting import macs, macs_thop, outline, parameters

pytestmark = pytest.mark.usefixtures('one_thread')

@pytest.mark.parametrize('bands,n,giga,digits', [(4, 119808, 5.59, 2), (8, 238592, 11.107, 3)])
def test_count(bands, n, giga, digits):
    "PreMix's Table 3: 0.239 M and 11.11 G, eight bands. Nothing is transposed, so thop agrees (below)."
    f,x = outline(lambda: GPPNN(bands), bands)
    assert parameters(f)==n and round(macs(f, x)/1e9, digits)==giga

def test_count_thop():
    f,x = outline(lambda: GPPNN(K=1), size=32)
    assert macs_thop(f, x)==macs(f, x)

def by_hand(s, ms, pan, K, corners):
    "From a state dict, without the package's modules."
    def unit(x, k):
        a,b = s[k+'.0.weight'],s[k+'.2.weight']
        return F.conv2d(F.conv2d(x, a, padding=a.shape[-1]//2).relu(), b, padding=b.shape[-1]//2)
    def to(x, like): return F.interpolate(x, like.shape[2:], mode='bicubic', align_corners=corners)
    x = to(ms, pan)
    for k in range(K):
        a,b = f'ms.{k}.',f'pan.{k}.'
        x = unit(x + to(unit(ms - to(unit(x, a+'f'), ms), a+'g'), x), a+'prox')
        x = unit(x + unit(pan - unit(x, b+'f'), b+'g'), b+'prox')
    return x

@pytest.mark.parametrize('corners', [True, False])
def test_equations(corners):
    n,(ms,pan) = net(GPPNN, 5, corners=corners).double(),pair(5, dtype=torch.float64)
    with torch.no_grad(): torch.testing.assert_close(n(ms, pan), by_hand(n.state_dict(), ms, pan, 2, corners), rtol=1e-12, atol=1e-12)

def test_homogeneous():
    "No bias, ReLU only: k times the light in, k times the light out."
    n,(ms,pan) = net(GPPNN).double(),pair(dtype=torch.float64)
    with torch.no_grad():
        for k in (0, .5, 7): torch.testing.assert_close(n(k*ms, k*pan), k*n(ms, pan))
