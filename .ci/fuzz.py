"""Give everything that takes input from strangers broken input: each case must end in a result or in a `MessiError` with a sentence.

    python .ci/fuzz.py                        # about 1,500 cases, the same ones each time, under two minutes
    python .ci/fuzz.py --times 50 --seed 7    # longer, other ones
    python .ci/fuzz.py --kind image --only 17 # one case again, with its traceback

The number of cases is fixed, not the time. The last line is "N inputs: R results, S sentences, F failed"; the exit status is 0 only
when F is 0. Needs the package with its `dev` extra.
"""
import argparse, asyncio, collections, contextlib, io, json, logging, math, os, random, re, signal, struct, sys, tempfile, time, traceback, warnings, zipfile
from pathlib import Path

LIMIT = 120 # seconds after which a case counts as one that hangs
kinds = {}  # name -> (number of cases, function of a random generator)

def kind(n):
    def add(f): kinds[f.__name__] = n, f; return f
    return add

# Mutations

def mutated(data, rng, most=4):
    "Some bytes, changed in a few of the ways in which files break, or are broken"
    data = bytearray(data)
    for _ in range(rng.randint(1, most)):
        n = len(data)
        i, j = sorted((rng.randrange(n+1), rng.randrange(n+1)))
        what = rng.randrange(9)
        if what == 0 and n: data[rng.randrange(n)] ^= 1 << rng.randrange(8)
        elif what == 1 and n: data[rng.randrange(min(n, 64))] = rng.randrange(256)       # headers are short
        elif what == 2: data = data[:i]
        elif what == 3: del data[i:min(j, i+32)]
        elif what == 4: data[i:i] = rng.randbytes(rng.randint(1, 16))
        elif what == 5: data[i:i] = data[i:min(j, i+256)]
        elif what == 6: data[i:i+4] = rng.choice([b'\xff\xff\xff\xff', b'\0\0\0\0', b'\x7f\xff\xff\xff', b'\x80\0\0\0', b'\0\0\xff\xff'])
        elif what == 7: data[i:i+rng.randint(1, 64)] = rng.randbytes(8)
        elif what == 8: data = data[i:]+data[:i] if rng.random() < .3 else data
    return bytes(data)

NASTY = (None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, -10**30, .5, 1e308, math.inf, -math.inf, math.nan, '', 'x', 'x'*5000, '\0', '../../etc/passwd',
         '~nobody/x', 'http://127.0.0.1/', '\ud800', '🎩', '1e999', '[]', [], {}, [[]], [None], [1, 2], [math.nan]*3, {'a': [1]}, [[[[1]]]], (1, 2), b'x')

def nested(value, rng, depth=0):
    "The same structure, with something else somewhere"
    if isinstance(value, dict) and value and rng.random() < .9:
        value, k = dict(value), rng.choice(list(value))
        what = rng.randrange(6)
        if what == 0: del value[k]
        elif what == 1: value[rng.choice(['', 'x', 'seed', 'mask', k+' ', '__class__'])] = rng.choice(NASTY)
        else: value[k] = nested(value[k], rng, depth+1)
        return value
    if isinstance(value, list) and value and rng.random() < .8:
        value, i = list(value), rng.randrange(len(value))
        value[i] = nested(value[i], rng, depth+1)
        return value
    return rng.choice(NASTY)

def as_json(value):
    "JSON as Python writes it, NaN and Infinity among it; what JSON has not becomes text"
    return json.dumps(value, default=repr)

# What is mutated

def pictures(rng=random.Random(0)):
    "Files of every format that is read, and of some that are not"
    import numpy as np
    from PIL import Image
    a = np.random.default_rng(0).integers(0, 256, (24, 32, 4), dtype=np.uint8)
    im, out = Image.fromarray(a), []
    def save(im, fmt, **kw):
        f = io.BytesIO()
        with contextlib.suppress(OSError, KeyError, ValueError):
            im.save(f, fmt, **kw)
            out.append(f.getvalue())
    rgb, grey = im.convert('RGB'), im.convert('L')
    exif = Image.Exif()
    exif[274] = 6
    for o in (im, rgb, grey, grey.convert('1'), grey.convert('LA'), rgb.quantize(16), Image.fromarray(a[..., 0].astype(np.uint16)*257)): save(o, 'PNG')
    for o in (rgb, grey, rgb.convert('CMYK')): save(o, 'JPEG', quality=70, exif=exif)
    save(rgb, 'JPEG', progressive=True)
    for o in (rgb, im): save(o, 'WEBP')
    save(rgb, 'GIF', save_all=True, append_images=[rgb.transpose(0)])
    save(rgb, 'PNG', save_all=True, append_images=[rgb.transpose(0)])
    for fmt in ('BMP', 'DIB', 'PPM', 'TGA', 'ICO', 'JPEG2000', 'AVIF', 'PCX', 'SGI', 'EPS', 'PDF'): save(rgb, fmt)
    for c in ('raw', 'tiff_lzw', 'tiff_deflate', 'packbits', 'jpeg'): save(rgb, 'TIFF', compression=c)
    save(rgb, 'TIFF', save_all=True, append_images=[rgb])
    field = lambda tag, d: bytes((0x1c, *tag))+struct.pack('>H', len(d))+d
    out.append(field((3, 20), b'\0\x09')+field((3, 30), b'\0\x09')+field((3, 60), b'\3\0')+field((3, 65), b'\0')+field((3, 120), b'\1')+field((8, 10), out[0]))
    return out

class Stub:
    "Made once, when first needed"
    def __getattr__(self, name):
        v = getattr(self, f'_{name}')()
        setattr(self, name, v)
        return v
    def _pictures(self): return pictures()
    def _folder(self):
        self._keep = tempfile.TemporaryDirectory()
        return Path(self._keep.name)
    def _net(self):
        "A tiny network of ours, as a folder of weights"
        import torch
        from dataclasses import dataclass
        from torch import nn
        from messi_anything.weights import Pretrained
        @dataclass(frozen=True)
        class Cfg: width: int = 4; mult: tuple = (1, 2); name: str = 'x'
        class Net(nn.Module, Pretrained):
            cfg_class = Cfg
            def __init__(self, cfg=Cfg()):
                super().__init__()
                self.cfg, self.lin = cfg, nn.Linear(2, cfg.width)
        torch.manual_seed(0)
        Net().save_pretrained(self.folder/'net')
        (self.folder/'net/target.json').write_text(json.dumps(dict(name='somebody', label=1, close=True)))
        return Net, {o.name: o.read_bytes() for o in (self.folder/'net').iterdir()}
    def _app(self):
        import numpy as np, torch
        from messi_anything.inpaint import Inpainter
        from messi_anything.segment import from_mask
        from messi_anything.requests import ServeCfg
        from messi_anything.serve import create_app
        class Plain(Inpainter):
            size, name = 16, 'plain'
            def __call__(self, img, hole, seeds, steps=5): return torch.zeros_like(img)
        def everybody(img):
            m = torch.zeros(1, 1, *img.size[::-1])
            m[..., img.height//3:2*img.height//3, img.width//3:2*img.width//3] = 1
            return from_mask(m, 'segmenter')
        logging.getLogger('messi_anything.serve').setLevel(logging.CRITICAL)
        cfg = ServeCfg(max_mb=1, max_pixels=100_000, max_variants=2, idle_timeout=5, read_timeout=10)
        return create_app(cfg, 'plain', dict(plain=Plain()), everybody, ['cpu'])

stub = Stub()

# The kinds of input

@kind(500)
def image(rng):
    from messi_anything.images import load_image, load_photo
    from messi_anything.provenance import read_provenance
    data = mutated(rng.choice(stub.pictures), rng)
    with contextlib.suppress(ValueError): read_provenance(data)                     # bytes of length 0 are a MessiError, which is one
    out = rng.choice((load_image, load_photo))(data, max_pixels=4_000_000)
    assert getattr(out, 'image', out).mode == 'RGB'

@kind(150)
def mask(rng):
    from messi_anything.images import load_mask, mask_to_pil
    m = load_mask(mutated(rng.choice(stub.pictures[:7]), rng), (32, 24) if rng.random() < .5 else None, max_pixels=4_000_000)
    assert m.shape[:2] == (1, 1) and 0 <= m.min() and m.max() <= 1
    mask_to_pil(m)

@kind(60)
def array(rng):
    import numpy as np, torch
    from messi_anything.images import load_image, load_mask
    shape = [rng.choice((0, 1, 2, 3, 4, 7)) for _ in range(rng.randint(0, 5))]
    a = np.random.default_rng(rng.randrange(2**32)).normal(size=shape)*rng.choice((0, 1, 300))
    if rng.random() < .2: a = a*np.nan
    a = a.astype(rng.choice(('uint8', 'uint16', 'int64', 'float16', 'float32', 'float64', 'bool', 'complex64', 'object', 'U4')))
    if rng.random() < .4 and a.dtype.kind in 'biuf' and a.dtype != np.uint16: a = torch.from_numpy(a)
    rng.choice((load_image, load_mask))(a)

@kind(120)
def provenance(rng):
    from messi_anything.provenance import describe_provenance, read_provenance, xmp_packet
    packet = xmp_packet(dict(target='somebody', seed=3, kind=rng.choice(('composite', 'generated', 'cutout'))))
    describe_provenance(read_provenance(mutated(packet, rng)*rng.randint(1, 3)))

@kind(300)
def settings(rng):
    from messi_anything.batch import read_settings, settings_text
    from messi_anything.pipeline import ReplaceCfg
    base = json.loads(settings_text(ReplaceCfg(people=[0, (3, 4.5)], seed=4, mode='image', strength=.5, n=2), mark='0123456789abcdef'))
    text = as_json(nested(base, rng)) if rng.random() < .8 else mutated(as_json(base).encode(), rng).decode('utf-8', 'replace')
    if rng.random() < .3:
        f = stub.folder/'settings.json'
        f.write_bytes(text.encode('utf-8', 'surrogatepass'))
        text = f
    d = read_settings(text)
    ReplaceCfg(**{k: v for k, v in d.items() if k not in ('photo', 'mask')})

@kind(200)
def option(rng):
    from messi_anything.pipeline import ReplaceCfg
    names = list(ReplaceCfg.options('settings'))
    ReplaceCfg(**{rng.choice(names): rng.choice(NASTY) for _ in range(rng.randint(1, 3))}).effective_mode

@kind(150)
def field(rng):
    from messi_anything.requests import ReplaceRequest
    from messi_anything.pipeline import ReplaceCfg
    names = [*ReplaceCfg.options('service'), 'format', 'quality']
    words = ['all', '0;1', '1,2', '1,2,3,4', '14', '.5', '1e9', 'nan', '-0', '٣', '9'*400, 'png', 'image', 'head', 'with a hat', '\0', '\ud800', ' ', 'x'*999]
    ReplaceRequest.read({rng.choice(names): rng.choice(words) if rng.random() < .7 else mutated(rng.choice(words).encode('utf-8', 'ignore') or b'x', rng).decode('latin-1') for _ in range(3)})

def ask(app, method, path, headers, body, chunks=3):
    "One request to an ASGI application: status, body"
    step = max(1, len(body)//chunks)
    parts = [body[i:i+step] for i in range(0, len(body), step)] or [b'']
    said = []
    async def receive():
        if parts: return dict(type='http.request', body=parts.pop(0), more_body=bool(parts))
        await asyncio.sleep(60)
        return dict(type='http.disconnect')
    async def send(m): said.append(m)
    scope = dict(type='http', asgi=dict(version='3.0'), http_version='1.1', method=method, scheme='http', path=path, raw_path=path.encode('utf-8', 'ignore'), query_string=b'',
                 root_path='', headers=headers, client=('127.0.0.1', 5), server=('127.0.0.1', 80))
    asyncio.run(app(scope, receive, send))
    return next(m['status'] for m in said if m['type'] == 'http.response.start'), b''.join(m.get('body', b'') for m in said)

@kind(120)
def request(rng):
    from messi_anything.core import MessiError
    part = lambda name, data, file: f'--b\r\nContent-Disposition: form-data; name="{name}"{"; filename=x" if file else ""}\r\n\r\n'.encode()+data+b'\r\n'
    picture = lambda: rng.choice(stub.pictures) if rng.random() < .6 else mutated(rng.choice(stub.pictures), rng)
    parts = [part('photo', picture(), True)]
    if rng.random() < .3: parts.append(part('mask', picture(), True))
    if rng.random() < .1: parts.append(part('figure', picture(), True))
    for _ in range(rng.randrange(3)): parts.append(part(rng.choice(('seed', 'people', 'mode', 'target', 'n', 'format', 'text', 'x')), str(rng.choice(NASTY)).encode('utf-8', 'ignore')[:1200], False))
    body = b''.join(parts)+b'--b--\r\n'
    if rng.random() < .4: body = mutated(body, rng)
    heads = {b'host': b'localhost', b'content-type': b'multipart/form-data; boundary=b', b'content-length': str(len(body)).encode()}
    if rng.random() < .2: heads[rng.choice([*heads, b'accept', b'origin', b'authorization', b'expect'])] = rng.choice((b'', b'x', b'\xff', b'application/json', b'null', b'multipart/form-data', b'evil.org'))
    if not heads[b'content-length'].isdigit(): heads[b'content-length'] = b'0'      # the server sees to that one
    path = rng.choice(('/replace', '/replace', '/segment', '/replace/', '/targets', '/health', '/docs', '/', '//', '/nothing', '/openapi.json'))
    method = rng.choice(('POST', 'POST', 'POST', 'GET', 'HEAD', 'PUT', 'OPTIONS', 'X'))
    status, said = ask(stub.app, method, path, list(heads.items()), body)
    assert status != 500 and 100 <= status < 600, f'status {status}: {said[:200]!r}'
    assert b'Traceback' not in said and str(stub.folder).encode() not in said
    if status >= 400 and method != 'HEAD': assert json.loads(said)['detail'], said[:200]
    if status >= 400: raise MessiError(f'status {status}')

def zipped(entries, rng):
    f = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(f, 'w', rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as z:
        warnings.simplefilter('ignore')
        for name, data, mode in entries:
            i = zipfile.ZipInfo(name)
            i.external_attr = mode << 16
            z.writestr(i, data)
    return f.getvalue()

@kind(120)
def zip_file(rng):
    from messi_anything.registry import check_target, unzip_target
    from messi_anything.requests import ServeCfg
    from messi_anything.studio import images_in
    names = ('a.png', 'A.PNG', '../../up.png', '/abs.png', 'C:\\x.png', 'config.json', 'model.safetensors', 'target.json', 'x.pkl', 'a/b/c.png', 'x'*300+'.png', 'nul\0.png', '..')
    entries = [(rng.choice(names), rng.choice([b'', b'\0'*10_000, *stub.pictures[:3], *stub.net[1].values()]), rng.choice((0o100644, 0o120777, 0o040755, 0))) for _ in range(rng.randint(0, 6))]
    data = zipped(entries, rng)
    if rng.random() < .5: data = mutated(data, rng)
    if rng.random() < .5: return list(images_in(data, ServeCfg(max_mb=.1), 10))
    (stub.folder/'t.zip').write_bytes(data)
    with tempfile.TemporaryDirectory(dir=stub.folder) as d:
        (Path(d)/'in').mkdir()
        try:
            unzip_target(stub.folder/'t.zip', Path(d)/'in')
            check_target(Path(d)/'in')
        finally: assert [o.name for o in Path(d).iterdir()] == ['in'], 'written outside'

@kind(200)
def weights(rng):
    from messi_anything.inpaint import read_target
    Net, files = stub.net
    d = stub.folder/'weights'
    d.mkdir(exist_ok=True)
    which = rng.choice(list(files))
    for name, data in files.items():
        if name == which:
            if name.endswith('.json') and rng.random() < .7: data = as_json(nested(json.loads(data), rng)).encode('utf-8', 'surrogatepass')
            else: data = mutated(data, rng)
        (d/name).write_bytes(data)
    Net.from_pretrained(d)
    read_target(d)

@kind(120)
def annotations(rng):
    from messi_anything.data import check_annotation, read_coco
    base = dict(images=[dict(id=1, file_name='a.jpg', width=32, height=24, coco_url='http://127.0.0.1/a.jpg')], categories=[dict(id=1, name='person')],
                annotations=[dict(id=1, image_id=1, category_id=1, iscrowd=0, area=50, bbox=[1, 2, 10, 10], segmentation=[[1, 2, 11, 2, 11, 12]])])
    f = stub.folder/'coco.json'
    f.write_bytes(as_json(nested(base, rng)).encode('utf-8', 'surrogatepass') if rng.random() < .8 else mutated(json.dumps(base).encode(), rng))
    for im in read_coco(f)[0]: check_annotation(im, 3, .01)

# Running

def one(name, i, seed, show=False):
    "One case: 'result', 'sentence' or 'failed', and why"
    from messi_anything.core import MessiError
    rng = random.Random(f'{seed} {name} {i}')
    def late(*_): raise TimeoutError(f'no end after {LIMIT} s')
    if hasattr(signal, 'SIGALRM'):
        signal.signal(signal.SIGALRM, late)
        signal.alarm(LIMIT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            kinds[name][1](rng)
        return 'result', ''
    except MessiError as e:
        said = str(e)
        if not said.strip() or len(said) > 3000: return 'failed', f'the sentence has {len(said)} letters'
        return 'sentence', said
    except Exception as e:
        if type(e).__name__ == 'Refusal': return 'sentence', str(e)
        if show: traceback.print_exc()
        at = traceback.extract_tb(e.__traceback__)[-1]
        return 'failed', f'{type(e).__name__}: {str(e)[:200]} ({Path(at.filename).name}, line {at.lineno})'
    finally:
        if hasattr(signal, 'SIGALRM'): signal.alarm(0)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--seed', type=int, default=0, help='other cases')
    p.add_argument('--times', type=float, default=1, help='so many times as many cases')
    p.add_argument('--kind', choices=[*kinds], help='one kind only')
    p.add_argument('--only', type=int, help='one case only, with its traceback')
    p.add_argument('--report', help='write the counts to this file, as JSON')
    a = p.parse_args()
    total, report = collections.Counter(), {}
    for name in [a.kind] if a.kind else kinds:
        counts, start = collections.Counter(), time.time()
        for i in [a.only] if a.only is not None else range(round(kinds[name][0]*a.times)):
            what, why = one(name, i, a.seed, a.only is not None)
            counts[what] += 1
            if what == 'failed' or a.only is not None: print(f'{what}: --seed {a.seed} --kind {name} --only {i}: {why}', flush=True)
        report[name] = dict(cases=sum(counts.values()), results=counts['result'], sentences=counts['sentence'], failed=counts['failed'])
        total += counts
        print(f'{name:12} {report[name]["cases"]:5} cases, {counts["result"]:5} results, {counts["sentence"]:5} sentences, {counts["failed"]:3} failed, {time.time()-start:.0f} s', flush=True)
    if a.report:
        command = f'python .ci/fuzz.py --times {a.times:g} --seed {a.seed}'
        Path(a.report).write_text(json.dumps(dict(command=command, seed=a.seed, kinds=report), indent=1)+'\n')
    n = sum(total.values())
    print(f'{n} inputs: {total["result"]} results, {total["sentence"]} sentences, {total["failed"]} failed')
    return int(total['failed'] > 0 or not n)

if __name__ == '__main__': sys.exit(main())
