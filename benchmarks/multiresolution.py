"""Multiresolution methods against a plain NumPy/SciPy version: `python benchmarks/multiresolution.py [rounds]`.

PAN 1024 x 1024, MS 256 x 256 x 4 (IKONOS), float32 here, float64 there, two threads, medians of interleaved runs. The plain version is
what public Python toolboxes do: band by band, 41 x 41 kernels through `ndimage.correlate`, interpolation by zero-stuffing and 23 taps."""
import sys
import numpy as np, torch
from scipy import ndimage
from statistics import median
from time import perf_counter
from pansharp_nb.classical.multiresolution import methods
from pansharp_nb.data.degrade import mtf, mtf_kernel
from pansharp_nb.data.sensors import sensor

torch.set_num_threads(2)
wanted = {'MTF-GLP': 12, 'MTF-GLP-HPM': 12, 'SFIM': 10}
eps = np.finfo(float).eps
half = [.5, .305334091185, 0, -.072698593239, 0, .021809577942, 0, -.005192756653, 0, .000807762146, 0, -.000060081482]
taps = 2*np.array(half[:0:-1]+half)[None]
kernels = [mtf_kernel(g) for g in sensor('IKONOS').gains]
gauss = mtf_kernel(.3, n=41)

def interp23(x):
    for i in range(2):
        z = np.zeros((2*x.shape[0], 2*x.shape[1], x.shape[2]))
        z[i==0::2, i==0::2] = x
        for b in range(x.shape[2]):
            t = ndimage.correlate(z[..., b], taps, mode='wrap')
            z[..., b] = ndimage.correlate(t.T, taps, mode='wrap').T
        x = z
    return x

def equalise(pan, M, like):
    s = like.std(ddof=1)
    return np.stack([(pan-pan.mean())*M[..., b].std(ddof=1)/s + M[..., b].mean() for b in range(M.shape[2])], -1)

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
    box = np.full((5, 5), 1/25)
    low = [ndimage.correlate(E[..., b], box, mode='nearest') for b in range(M.shape[2])]
    return M*E/(np.stack(low, -1)+eps)

plain = {'MTF-GLP': mtf_glp, 'MTF-GLP-HPM': mtf_glp_hpm, 'SFIM': sfim}

def scene(n=1024, seed=0):
    "Smooth random land with fine texture, digital numbers 300 to 1500."
    g = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.interpolate(torch.rand(1, 4, n//32, n//32, generator=g), size=(n, n), mode='bicubic')
    gt = 400 + 800*x + 150*torch.rand(1, 1, n, n, generator=g)
    return mtf(gt, 'IKONOS', down=True), gt.mean(1, keepdim=True)

def clock(f, *args):
    t = perf_counter()
    x = f(*args)
    return perf_counter()-t, x

def main(rounds=None):
    ms,pan = scene()
    ms64,pan64 = ms[0].permute(1, 2, 0).double().numpy(),pan[0, 0].double().numpy()
    print(f'{"method":14}{"plain":>9}{"ours":>9}{"ratio":>8}{"wanted":>8}   largest difference, DN')
    for name,want in wanted.items():
        ours,theirs = [],[]
        methods[name](ms, pan, 'IKONOS')
        for _ in range(rounds or (15 if name=='SFIM' else 3)): # the plain MTF-GLP takes some ten seconds
            t,y = clock(plain[name], ms64, pan64)
            theirs.append(t)
            for _ in range(3):
                t,x = clock(methods[name], ms, pan, 'IKONOS')
                ours.append(t)
        off = np.abs(x[0].permute(1, 2, 0).numpy()-y).max()
        assert off < .02, f'{name}: the two differ by {off:.3g} DN'
        a,b = median(theirs),median(ours)
        print(f'{name:14}{a:8.2f}s{b:8.3f}s{a/b:7.0f}x{want:7}x   {off:.1e}', flush=True)
        assert a/b >= want, f'{name} is only {a/b:.1f} times faster'

if __name__=='__main__': main(*map(int, sys.argv[1:]))
