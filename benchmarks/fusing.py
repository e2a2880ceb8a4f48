"""Whole scenes: wall, CPU and peak memory of `pansharp-nb fuse`, beside GDAL's own pansharpening of the same files.

    python benchmarks/fusing.py [METHOD ...] [--side 8192] [--rounds 5] [--compress deflate,none]

A made-up scene of SIDE x SIDE PAN px, four bands, uint16, 2 threads. Every run is a process of its own, and every round runs all of them, so that whatever else the machine does meets all
alike; medians count. GDAL runs twice: as `gdal_pansharpen.py`, where it is installed, and as the driver behind it inside rasterio. TMPDIR says where files are written."""
import argparse, os, shutil, statistics, subprocess, sys, tempfile, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
import rasterio
from rasterio import Affine

def scene(d, n, seed=0):
    "Tiles of one made-up town, so that a scene of any size is made in seconds."
    from pansharp_nb.data.synthetic import made_up
    ds = made_up('IKONOS', size=1024, seed=seed)
    for name,a,px in (('IKONOS_pan.tif', ds.pan.values[None], 1.), ('IKONOS_ms.tif', ds.ms.values, 4.)):
        side = n//int(px)
        with rasterio.open(d/name, 'w', driver='GTiff', count=len(a), height=side, width=side, dtype='uint16', crs='EPSG:32633', tiled=True,
            transform=Affine(px, 0, 5e5, 0, -px, 5e6), bigtiff='IF_SAFER') as f:
            for i in range(0, side, a.shape[1]):
                for j in range(0, side, a.shape[2]):
                    h,w = min(a.shape[1], side-i),min(a.shape[2], side-j)
                    f.write(a[:, :h, :w], window=rasterio.windows.Window(j, i, w, h))
    return d/'IKONOS_pan.tif', d/'IKONOS_ms.tif'

inside = """import rasterio, rasterio.shutil, sys
pan,ms,out,threads,compress = sys.argv[1:]
bands = ''.join(f'<SpectralBand dstBand="{i}"><SourceFilename>{ms}</SourceFilename><SourceBand>{i}</SourceBand></SpectralBand>' for i in (1, 2, 3, 4))
vrt = ('<VRTDataset subClass="VRTPansharpenedDataset"><PansharpeningOptions><Algorithm>WeightedBrovey</Algorithm><AlgorithmOptions><Weights>.25,.25,.25,.25</Weights>'
    f'</AlgorithmOptions><Resampling>Cubic</Resampling><NumThreads>{threads}</NumThreads><PanchroBand><SourceFilename>{pan}</SourceFilename><SourceBand>1</SourceBand></PanchroBand>{bands}'
    '</PansharpeningOptions></VRTDataset>')
with rasterio.Env(GDAL_CACHEMAX=64):
    kw = dict(compress='deflate', zlevel=1, predictor=2) if compress=='deflate' else {}
    rasterio.shutil.copy(vrt, out, driver='GTiff', tiled=True, blockxsize=512, blockysize=512, bigtiff='IF_SAFER', **kw)"""
ours = 'import sys; from pansharp_nb.cli import main; sys.exit(main(sys.argv[1:]))'

def python(code, *args): return [sys.executable, '-W', 'ignore', '-c', code, *map(str, args)]

def commands(pan, ms, out, compress, methods):
    "Name and call of each: GDAL first."
    how = ['TILED=YES', 'BLOCKXSIZE=512', 'BLOCKYSIZE=512', 'BIGTIFF=IF_SAFER', *['COMPRESS=DEFLATE', 'ZLEVEL=1', 'PREDICTOR=2']*(compress=='deflate')]
    script = shutil.which('gdal_pansharpen.py')
    if script: yield 'gdal_pansharpen.py', [script, '-q', '-threads', '2', *(a for k in how for a in ('-co', k)), *map(str, (pan, ms, out))]
    yield f'GDAL {rasterio.__gdal_version__} in rasterio', python(inside, pan, ms, out, 2, compress)
    for m in methods: yield m, python(ours, 'fuse', '--method', m, '--jobs', 2, '--quiet', '--overwrite', '--compress', compress, pan, ms, out)

def run(call):
    "Wall, CPU and peak memory of a process: s, s, MB."
    t = time.time()
    p = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ|dict(GDAL_CACHEMAX='64'))
    said = p.stderr.read().decode()
    _,status,u = os.wait4(p.pid, 0)
    if status: sys.exit(said)
    return time.time()-t, u.ru_utime+u.ru_stime, u.ru_maxrss/1024

def rounds(calls, n, out):
    "All of them, n times over: name -> runs."
    took = {name: [] for name,_ in calls}
    for _ in range(n):
        for name,call in calls:
            out.unlink(missing_ok=True)
            took[name].append(run(call))
    return took

def said(took):
    "One line each: medians, and how much longer than the first."
    first = statistics.median(w for w,*_ in next(iter(took.values())))
    for name,runs in took.items():
        wall,cpu,mb = zip(*runs)
        w = statistics.median(wall)
        yield f'{name:24} {w:7.2f} s wall ({min(wall):.2f} to {max(wall):.2f}) {w/first:5.2f} x {statistics.median(cpu):7.2f} s CPU {max(mb):6.0f} MB'

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('methods', nargs='*', default=['Brovey', 'GSA', 'MTF-GLP-HPM-R'], metavar='METHOD')
    p.add_argument('--side', type=int, default=8192)
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--compress', default='deflate,none')
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as d:
        with ProcessPoolExecutor(1, get_context('spawn')) as pool: pan,ms = pool.submit(scene, Path(d), a.side).result() # else its memory would count as that of every run
        out = Path(d)/'o.tif'
        for compress in a.compress.split(','):
            load = os.getloadavg()[0]
            took = rounds(list(commands(pan, ms, out, compress, a.methods)), a.rounds, out)
            print(f'{time.strftime("%Y-%m-%d")}, {a.side} x {a.side} PAN px, {compress}, 2 threads of {os.cpu_count()}, medians of {a.rounds}, load {load:.1f} before and {os.getloadavg()[0]:.1f} after')
            print(*said(took), sep='\n', flush=True)
