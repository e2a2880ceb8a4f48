"""Classical methods against plain NumPy/SciPy: `python benchmarks/classical.py [rounds] [side]`.

PAN 1024 x 1024 (`side`), MS 256 x 256 x 4 (IKONOS), ours in float32, two threads, medians of interleaved runs. The
plain versions are written as public Python toolboxes write them, in float64: zero-stuffing, `ndimage.correlate` with
41 x 41 kernels, loops over bands.
"""
from race import go, race, show
import numpy as np, torch
from scipy import ndimage
from pansharp_nb.data.degrade import interp23tap, mtf, mtf_kernel
from pansharp_nb.data.sensors import sensor
from pansharp_nb.scoring import method

eps = np.finfo(float).eps
half = [.5, .305334091185, 0, -.072698593239, 0, .021809577942, 0, -.005192756653, 0, .000807762146, 0, -.000060081482]
taps = 2*np.array(half[:0:-1]+half)[None]
b3 = np.array([1, 4, 6, 4, 1])/16
kernels = [mtf_kernel(g) for g in sensor('IKONOS').gains]
gauss = mtf_kernel(.3, n=41)

# --- the peers: (h, w, C) and (H, W) in, (H, W, C) out -----------------------------------------------------------------

def interp23(x):
    for i in range(2):
        z = np.zeros((2*x.shape[0], 2*x.shape[1], x.shape[2]))
        z[i==0::2, i==0::2] = x
        for b in range(x.shape[2]):
            t = ndimage.correlate(z[..., b], taps, mode='wrap')
            z[..., b] = ndimage.correlate(t.T, taps, mode='wrap').T
        x = z
    return x

def match(pan, I, like): return (pan-pan.mean())*I.std(ddof=1)/like.std(ddof=1) + I.mean()

def equalise(pan, M, like): return np.stack([match(pan, M[..., b], like) for b in range(M.shape[2])], -1)

def add(M, I, d): # M + cov/var * d, band by band
    x = np.zeros_like(M)
    for b in range(M.shape[2]):
        v = np.cov(I.ravel(), M[..., b].ravel())
        x[..., b] = M[..., b] + v[0, 1]/v[0, 0]*d
    return x

def brovey(ms, pan):
    M = interp23(ms)
    I = M.mean(2)
    P = match(pan, I, pan)
    return np.stack([M[..., b]*P/(I+eps) for b in range(M.shape[2])], -1)

def gs(ms, pan):
    M = interp23(ms)
    I = M.mean(2)
    return add(M, I, match(pan, I, pan)-I)

def low_pass(x): # two levels down, two back, the same five taps
    for axis in (0, 1):
        def five(x): return ndimage.correlate1d(x, b3, axis=axis).take(range(2, x.shape[axis]-2), axis)
        for _ in range(2): x = five(np.pad(x, [(4, 4) if a==axis else (0, 0) for a in (0, 1)], mode='symmetric'))
        for _ in range(2): x = five(x)
    return x

def gsa(ms, pan):
    M,P = interp23(ms),pan-pan.mean()
    low,m = low_pass(P)[2::4, 2::4],(ms-ms.mean((0, 1))).reshape(-1, ms.shape[2])
    w = np.linalg.lstsq(np.c_[m, np.ones(len(m))], low.ravel(), rcond=None)[0][:-1]
    I = sum(w[b]*(M[..., b]-M[..., b].mean()) for b in range(len(w)))
    return add(M, I-I.mean(), P-I+I.mean())

def glp(ms, pan):
    M = interp23(ms)
    E = equalise(pan, M, ndimage.correlate(pan, gauss, mode='nearest'))
    low = [ndimage.correlate(E[..., b], k, mode='nearest')[2::4, 2::4] for b,k in enumerate(kernels)]
    return M, E, interp23(np.stack(low, -1))

def mtf_glp(ms, pan):
    M,E,L = glp(ms, pan)
    return M + E - L

def mtf_glp_hpm(ms, pan):
    M,E,L = glp(ms, pan)
    return M*E/(L+eps)

def sfim(ms, pan):
    M = interp23(ms)
    E = equalise(pan, M, pan)
    low = [ndimage.correlate(E[..., b], np.full((5, 5), 1/25), mode='nearest') for b in range(M.shape[2])]
    return M*E/(np.stack(low, -1)+eps)

# --- the race ----------------------------------------------------------------------------------------------------------

plain = {'Brovey': (brovey, 12, 1), 'GS': (gs, 12, 1), 'GSA': (gsa, 12, 1), 'SFIM': (sfim, 10, 1),
    'MTF-GLP': (mtf_glp, 12, .3), 'MTF-GLP-HPM': (mtf_glp_hpm, 12, .3)} # peer, goal, share of the rounds

def scene(n=1024, seed=0):
    "Smooth random land with fine texture, digital numbers 300 to 1500."
    g = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.interpolate(torch.rand(1, 4, n//32, n//32, generator=g), size=(n, n), mode='bicubic')
    gt = 400 + 800*x + 150*torch.rand(1, 1, n, n, generator=g)
    return mtf(gt, 'IKONOS', down=True), gt.mean(1, keepdim=True)

def hwc(x): return x[0].permute(1, 2, 0)

def main(rounds=9, n=1024):
    ms,pan = scene(n)
    m,p = hwc(ms).double().numpy(),pan[0, 0].double().numpy()
    rows = [race('interp23', lambda: interp23(m), lambda: hwc(interp23tap(ms)), 1e-5, 12, rounds)]
    for name,(peer,goal,share) in plain.items():
        f = method(name)
        rows.append(race(name, lambda: peer(m, p), lambda: hwc(f(ms, pan, 'IKONOS')), 1e-5, goal, max(min(rounds, 3), int(rounds*share))))
    for peer in ('C-MTF-GLP-CBD', 'CNMF'): # other images: these two are the slow ones of the classical methods
        for ours in ('SFR', 'AnyPan'):
            def run(m): return hwc(method(m)(ms, pan, 'IKONOS'))
            rows.append(race(f'{peer}; {ours}', lambda: run(peer), lambda: run(ours), np.inf, np.nan, max(1, rounds//3)))
    return show(rows, f'PAN {n} x {n}, MS {n//4} x {n//4} x 4, float32; the peer in float64')

if __name__=='__main__': go(main)
