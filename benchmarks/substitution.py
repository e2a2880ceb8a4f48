"""Component substitution against plain NumPy/SciPy: `python benchmarks/substitution.py [rounds]`.

PAN 1024 x 1024, MS 256 x 256 x 4, float32, two threads. The plain versions are written as public Python toolboxes write
them: zero-stuffing, `ndimage.correlate` and loops over bands, in float64. Runs are interleaved; a ratio is the median over rounds.
"""
import os, sys, time
os.environ.setdefault('OMP_WAIT_POLICY', 'passive') # else waiting threads spin, and a busy machine shows nothing but that
import numpy as np, torch
from scipy import ndimage
from pansharp_nb.classical.substitution import brovey, gs, gsa
from pansharp_nb.data.degrade import interp23tap

GOAL = 12
HALF = [.5, .305334091185, 0, -.072698593239, 0, .021809577942, 0, -.005192756653, 0, .000807762146, 0, -.000060081482]
TAPS = 2*np.array(HALF[:0:-1]+HALF)[None]
B3 = np.array([1, 4, 6, 4, 1])/16

def plain_interp23(ms, r=4): # (h, w, C) -> (r*h, r*w, C)
    for i in range(int(np.log2(r))):
        h,w,C = ms.shape
        up = np.zeros((2*h, 2*w, C))
        first = i==0
        up[first::2, first::2] = ms
        for c in range(C):
            rows = ndimage.correlate(up[:, :, c], TAPS, mode='wrap')
            up[:, :, c] = ndimage.correlate(rows.T, TAPS, mode='wrap').T
        ms = up
    return ms

def plain_match(pan, I): return (pan-pan.mean())*(I.std(ddof=1)/pan.std(ddof=1)) + I.mean()

def plain_brovey(ms, pan):
    M = plain_interp23(ms)
    I = np.mean(M, axis=2)
    P = plain_match(pan, I)
    x = np.zeros_like(M)
    for c in range(M.shape[2]): x[:, :, c] = M[:, :, c]*P/(I+np.finfo(float).eps)
    return x

def plain_gains(M, I):
    gains = []
    for c in range(M.shape[2]):
        v = np.cov(I.ravel(), M[:, :, c].ravel())
        gains.append(v[0, 1]/v[0, 0])
    return gains

def plain_gs(ms, pan):
    M = plain_interp23(ms)
    I = np.mean(M, axis=2)
    d = plain_match(pan, I)-I
    x = np.zeros_like(M)
    for c,g in enumerate(plain_gains(M, I)): x[:, :, c] = M[:, :, c] + g*d
    return x

def plain_low_pass(pan): # two levels down, two back, the same five taps
    x = pan
    for axis in (0, 1):
        for _ in range(2):
            x = np.pad(x, [(4, 4) if a==axis else (0, 0) for a in (0, 1)], mode='symmetric')
            x = ndimage.correlate1d(x, B3, axis=axis).take(range(2, x.shape[axis]-2), axis)
        for _ in range(2): x = ndimage.correlate1d(x, B3, axis=axis).take(range(2, x.shape[axis]-2), axis)
    return x

def plain_gsa(ms, pan):
    M = plain_interp23(ms)
    P = pan-pan.mean()
    low = plain_low_pass(P)[2::4, 2::4]
    A = np.stack([(ms[:, :, c]-ms[:, :, c].mean()).ravel() for c in range(ms.shape[2])] + [np.ones(low.size)], 1)
    w = np.linalg.lstsq(A, low.ravel(), rcond=None)[0]
    I = np.zeros_like(pan)
    for c in range(ms.shape[2]): I += w[c]*(M[:, :, c]-M[:, :, c].mean())
    I = I-I.mean()
    x = np.zeros_like(M)
    for c,g in enumerate(plain_gains(M, I)): x[:, :, c] = M[:, :, c] + g*(P-I)
    return x

def images(seed=0): # smooth noise, 200 to 2047 digital numbers, bands and PAN alike
    rng = np.random.default_rng(seed)
    base = ndimage.gaussian_filter(rng.standard_normal((1024, 1024)), 3)
    own = np.stack([ndimage.gaussian_filter(rng.standard_normal((256, 256)), 2) for _ in range(4)], -1)
    ms = base[2::4, 2::4, None]/base.std() + .5*own/own.std()
    pan = base/base.std() + .3*rng.standard_normal(base.shape)
    def dn(x): return np.clip(900+150*x, 200, 2047).round()
    return dn(ms), dn(pan)

def main(rounds=7):
    torch.set_num_threads(2)
    ms,pan = images()
    m,p = [torch.from_numpy(a).float()[None] for a in (ms.transpose(2, 0, 1).copy(), pan[None])]
    pairs = {'interp23': (lambda: interp23tap(m), lambda: plain_interp23(ms)),
        'Brovey': (lambda: brovey(m, p, 'IKONOS'), lambda: plain_brovey(ms, pan)),
        'GS': (lambda: gs(m, p, 'IKONOS'), lambda: plain_gs(ms, pan)),
        'GSA': (lambda: gsa(m, p, 'IKONOS'), lambda: plain_gsa(ms, pan))}
    took = {k: [] for k in pairs}
    for k,(ours,plain) in pairs.items():
        gap = abs(ours()[0].permute(1, 2, 0).numpy()-plain()).max()
        assert gap<5e-3, f'{k}: {gap} digital numbers apart'
    for _ in range(rounds):
        for k,fs in pairs.items():
            t = []
            for f in fs:
                start = time.perf_counter()
                f()
                t.append(1e3*(time.perf_counter()-start))
            took[k].append(t)
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, PAN 1024 x 1024, MS 256 x 256 x 4, {rounds} rounds\n')
    print('| method | plain NumPy, ms | ours, ms | ratio | goal |\n|---|---|---|---|---|')
    ok = True
    for k,t in took.items():
        ours,plain = np.median(t, 0)
        ratio = np.median([b/a for a,b in t])
        ok = ok and ratio>=GOAL
        print(f'| {k} | {plain:.0f} | {ours:.1f} | {ratio:.1f} | {GOAL} |')
    return 0 if ok else 1

if __name__=='__main__': sys.exit(main(*map(int, sys.argv[1:2])))
