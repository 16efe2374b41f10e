"""The site without Quarto: pandoc, whose reader Quarto uses too, makes a plain page of every processed notebook, with the site's navigation.

    python .ci/preview.py             after .ci/site.py: pages in _preview, exit status 1 where pandoc has a complaint
    python .ci/preview.py --report F  the same, and write what was checked to F (json: name -> list of troubles)

It is no substitute for the site: no search, no themes, no callout icons. It shows each page as a page, and what would break on the site breaks here.
"""
import argparse, html, json, re, shutil, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROC, OUT = ROOT/'_proc', ROOT/'_preview'
STYLE = '''
:root{color-scheme:light dark}
body{margin:0;font:16px/1.6 system-ui,sans-serif;display:grid;grid-template-columns:15rem minmax(0,1fr)}
nav{padding:1rem;font-size:.85rem;border-right:1px solid #8884;height:100vh;overflow:auto;position:sticky;top:0;box-sizing:border-box}
nav b{display:block;margin-top:.8rem}
nav a{display:block;color:inherit;text-decoration:none;padding:.1rem 0}
nav a[aria-current]{font-weight:700}
main{max-width:52rem;padding:1rem 2rem 4rem;box-sizing:border-box;width:100%}
main img{max-width:100%;height:auto}
pre{overflow:auto;padding:.7rem;border:1px solid #8884;border-radius:.4rem;font-size:.85rem}
pre.out{border-style:dashed}
table{border-collapse:collapse;display:block;overflow:auto}
td,th{border:1px solid #8886;padding:.2rem .5rem}
.callout-note,.callout-tip,.callout-warning,.callout-important,.callout-caution{border-left:4px solid #1f5fa8;padding:.1rem 1rem;margin:1rem 0}
@media(max-width:50rem){body{display:block}nav{position:static;height:auto}}
'''

def text(o): return o if isinstance(o, str) else ''.join(o)

def option(src, name):
    "What a cell says of itself in a `#| name: value` line"
    m = re.search(rf'^#\|\s*{name}:\s*(.*)$', src, re.M)
    return m[1].strip().strip('"\'') if m else ''

def shown(output, alt):
    "An output of a cell as markdown"
    data = output.get('data', {})
    if output['output_type'] == 'stream': return f'```{{.out}}\n{text(output["text"])}\n```\n'
    if 'text/markdown' in data: return text(data['text/markdown'])
    picture = next((k for k in ('image/png', 'image/jpeg') if k in data), '')
    if picture: return f'![{alt}](data:{picture};base64,{text(data[picture]).strip()})\n'
    if 'text/html' in data: return f'\n```{{=html}}\n{text(data["text/html"])}\n```\n'
    if 'text/plain' in data: return f'```{{.out}}\n{text(data["text/plain"])}\n```\n'
    return ''

def markdown(nb):
    "A processed notebook as one text, and its title"
    out, title = [], ''
    for c in nb['cells']:
        src = text(c['source'])
        if c['cell_type'] == 'raw':
            m = re.search(r'^title:\s*(.*)$', src, re.M)
            title = m[1].strip('"\' ') if m else ''
            out.append(f'# {title}\n')
        elif c['cell_type'] == 'markdown': out.append(src)
        elif option(src, 'include') != 'false':
            code = '\n'.join(o for o in src.splitlines() if not o.startswith('#|')).strip()
            if code and option(src, 'echo') != 'false': out.append(f'```python\n{code}\n```\n')
            if option(src, 'output') != 'false': out += [shown(o, option(src, 'fig-alt')) for o in c.get('outputs', [])]
    return '\n\n'.join(out), title

def navigation(cfg, here):
    "The sidebar of _quarto.yml as HTML, with addresses as seen from the page `here`"
    up = '../'*(len(Path(here).parts)-1)
    def link(o):
        page, name = (o, '') if isinstance(o, str) else (o['href'], o.get('text', ''))
        f = PROC/page
        name = name or (markdown(json.loads(f.read_text(encoding='utf-8')))[1] if f.exists() else page)
        current = ' aria-current="page"' if page == here else ''
        return f'<a href="{up}{page.replace(".ipynb", ".html")}"{current}>{html.escape(name)}</a>'
    out = []
    for o in cfg['website']['sidebar']['contents']:
        if isinstance(o, dict) and 'section' in o: out += [f'<b>{html.escape(o["section"])}</b>', *map(link, o['contents'])]
        else: out.append(link(o))
    return '\n'.join(out)

def convert(page, cfg, pandoc):
    "One page; what pandoc has to say against it"
    src, title = markdown(json.loads((PROC/page).read_text(encoding='utf-8')))
    run = subprocess.run([pandoc, '-f', 'markdown', '-t', 'html5', '--mathml', '--citeproc', '--bibliography', 'references.bib', '--metadata', 'link-citations=true'],
                         input=src, cwd=PROC, capture_output=True, text=True, encoding='utf-8')
    body = re.sub(r'(href="[^":#]*)\.ipynb', r'\1.html', run.stdout)
    out = OUT/Path(page).with_suffix('.html')
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
                   f'<title>{html.escape(title)}</title><style>{STYLE}</style><nav>{navigation(cfg, page)}</nav><main>{body}</main></html>', encoding='utf-8')
    said = [o for o in run.stderr.splitlines() if o.strip()]
    return said if run.returncode == 0 else [f'pandoc ended with status {run.returncode}', *said]

def build():
    "Do everything; name of the check -> list of what is wrong"
    import pypandoc, yaml
    cfg = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))
    pages = sorted(p.relative_to(PROC).as_posix() for p in PROC.rglob('*.ipynb') if not any(o[0] in '._' for o in p.relative_to(PROC).parts))
    shutil.rmtree(OUT, ignore_errors=True)
    pandoc = pypandoc.get_pandoc_path()
    with ThreadPoolExecutor(2) as pool: said = list(pool.map(lambda o: convert(o, cfg, pandoc), pages))
    for o in ('images', 'results', 'cards'):
        if (PROC/o).is_dir(): shutil.copytree(PROC/o, OUT/o)
    return {f'preview: {page}': bad for page, bad in zip(pages, said)}

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--report', help='file for the result')
    args = ap.parse_args()
    res = build()
    if args.report: Path(args.report).write_text(json.dumps(res, indent=1), encoding='utf-8')
    for name, bad in res.items():
        print(('ok      ' if not bad else 'FAILED  ')+name)
        for o in bad: print('          '+o)
    sys.exit(any(res.values()))

if __name__ == '__main__': main()
