"The public names: each is described, says what it raises and where it is from, and lives in one module."
import ast, importlib, inspect, re, sys, types
from pathlib import Path
import pytest
sys.path.insert(0, str(Path(__file__).parents[1]/'nbs'))
import apipages as pages # what makes the API reference knows what is said of each name

modules = list(pages.modules())
functions = [(m, n) for m in modules for n,s in pages.public(m).items() if pages.kind(s)!='data']

# the same in each family, which `scoring` asks by this name; and a command has the name of what it calls
shared = dict(methods='a table of each family', papers='a table of each family', steps='a table of each family',
    conclusion='of a comparison, of a study, of the scorecard', pictures='of a comparison, of a study', run='training, and a study', unlike='of a comparison, of a study', profile='of the settings, and of a study', equalise='a histogram, and two gains',
    slopes='of a plane, and a plot of ranks', mix='of branches, and of features', mean='of a channel, and of an image', door='of the command line, and of a method', stretch='of a tensor, and of a picture')

def words(m, n): return ast.get_docstring(pages.public(m)[n]) or ''

@pytest.mark.parametrize('m', modules)
def test_every_public_name_is_described(m):
    "A docstring, and a comment (or the house's word, or an option's help) for each parameter."
    for n,s in pages.public(m).items():
        if pages.kind(s)=='data': continue
        parameters,_,together = pages.described(m, s)
        mute = [p for p,t in parameters.items() if not t and not together and p not in ('args', 'kwargs')]
        assert words(m, n) and not mute, (m, n, mute)

def test_the_modules_are_what_was_read():
    "The sources that the reference reads are the modules that Python imports."
    for m in ('losses', 'metrics.reference', 'models.premix', 'data.scenes'):
        assert [*pages.public(m)] and set(pages.public(m))==set(importlib.import_module(f'pansharp_nb.{m}').__all__)

def test_one_public_name_lives_in_one_module():
    of = {}
    for m in modules:
        if m!='cli':
            for n in pages.public(m): of.setdefault(n, []).append(m)
    twice = {n: at for n,at in of.items() if len(at)>1}
    assert not twice.keys()-shared, {n: twice[n] for n in twice.keys()-shared}
    commands = {n: of[n] for n in pages.public('cli') if n in of}
    assert all(len(set(at)-{'papers.ablations'})==1 or n in shared for n,at in commands.items()), commands

def test_what_is_said_to_be_shared_is_shared():
    "The list above names nothing that is in one module only."
    every = [n for m in modules for n in pages.public(m)]
    assert [n for n in shared if every.count(n)<2]==[]

elementary = {'l1', 'l2', 'psnr', 'psnr_bandmean', 'rmse', 'cc', 'ag', 'qavg_', 'noreference_metrics', 'reference_metrics'}
source = re.compile(r'\b(19|20)\d\d\b|\bEqs?\. ?\d|\bFig\. ?\d|toolbox|Z-PNN|LDPNet')

def classical():
    for m in ('substitution', 'multiresolution', 'variational'):
        module = importlib.import_module(f'pansharp_nb.classical.{m}')
        for n,f in module.methods.items(): yield n,f,module.papers[n]

def test_every_method_names_its_paper():
    "Classical methods and networks: authors and year in the table, and in the docstring too."
    for n,f,paper in classical():
        assert source.search(paper), n
        own = [getattr(o, '__doc__', '') for o in (f, getattr(f, 'func', None)) if o]
        assert any(source.search(w or '') for w in own), (n, own)
    networks = importlib.import_module('pansharp_nb.models.networks')
    for n,net in networks.networks.items():
        assert networks.papers[n] and (source.search(net.__doc__) or n in ('SUM-DUN', 'AnyPan', 'AnyPan-free')), (n, net.__doc__)

def test_every_metric_and_loss_names_its_paper():
    "Public functions of the metrics that score an image, and of the losses."
    scores = [(m, n) for m in ('metrics.reference', 'metrics.noreference', 'losses') for n,s in pages.public(m).items()
        if pages.kind(s)=='function' and {'x'}<={a.arg for a in s.args.args}]
    assert len(scores)>25
    mute = [n for m,n in scores if n not in elementary and not source.search(words(m, n))]
    assert mute==[], mute

def test_doors_say_what_they_raise():
    "What `import pansharp_nb as ps` gives, and what it is built of, names its exceptions."
    assert [n for n,at in pages.doors().items() if 'raises' not in words(*at.rsplit('.', 1))]==[]

def test_reference_reads_shared_lines_defaults_and_errors():
    "The reader of comments itself: on names whose pages say it in different ways."
    kl,_,_ = pages.described('losses', pages.public('losses')['kl_loss'])
    assert kl['pan'].startswith('`(B, 1, H, W)`') and 'per_row' in kl['reduction']
    _,_,together = pages.described('losses', pages.public('losses')['l1'])
    assert together=='both `(B, C, H, W)`'
    pair,out,_ = pages.described('data.synthetic', pages.public('data.synthetic')['scene_statistics'])
    assert 'PAN' in pair['ds'] and out=='name -> number'
    assert ('ValueError', 'reduction ‹reduction›: …') in pages.raised(pages.public('losses')['two_scale_l2'])
    assert pages.rst('`a`, $x^2$, b_ and *c*')==r'\ ``a``\ , \ :math:`x^2`\ , b\_ and \*c\*'

def test_signatures_show_no_address():
    "Of a command each option's type and default; what typer is told of it is said below, in its help."
    said = {n: f for n,f in vars(importlib.import_module('pansharp_nb.cli')).items() if n in pages.public('cli') and inspect.isfunction(f)}
    copies = {n: types.FunctionType(f.__code__, {}, n, f.__defaults__) for n,f in said.items()}
    for n,f in copies.items():
        f.__annotations__ = dict(said[n].__annotations__)
        pages.plain(None, f, False)
    assert len(copies)>8 and not [n for n,f in copies.items() if ' at 0x' in str(inspect.signature(f))]
    assert str(inspect.signature(copies['methods']))=='(as_json: bool = False)'

def test_names_lead_to_their_entries():
    "A name is what its page imports; what no page imports is found by where it lives."
    assert pages.resolve('ps.score', 'index')=='scoring.score'
    assert pages.resolve('reference.sam', 'index')=='metrics.reference.sam'
    assert pages.resolve('made_up', 'losses')=='data.synthetic.made_up'
    assert pages.resolve('sam_loss', 'losses')=='losses.sam_loss'
    assert pages.resolve('x', 'losses') is None and pages.resolve('no_such_name', 'index') is None
