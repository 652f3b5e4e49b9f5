// Bundles what others wrote for the page, and says under which licences. `make page` runs it; the same lock file gives the same bytes.
import { copyFile, readFile, readdir, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const PAGE = "../blyan/api/page";

const { metafile } = await build({
  entryPoints: ["vendor.js"],
  outfile: `${PAGE}/vendor.js`,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none", // the licences are in a file of their own
  metafile: true,
});

const packages = new Set(
  Object.keys(metafile.inputs)
    .map((path) => path.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1])
    .filter(Boolean),
);
const parts = ["vendor.js and vendor.css are made of these packages by `make page`.\n"];
for (const name of [...packages].sort()) {
  const folder = `node_modules/${name}`;
  const { version, license } = JSON.parse(await readFile(`${folder}/package.json`, "utf8"));
  const file = (await readdir(folder)).find((entry) => /^licen[cs]e/i.test(entry));
  if (!file) throw new Error(`${name} has no licence file`);
  parts.push(`${"-".repeat(80)}\n${name} ${version} (${license})\n\n${(await readFile(`${folder}/${file}`, "utf8")).trim()}\n`);
}
await writeFile(`${PAGE}/vendor-licences.txt`, parts.join("\n"));
await copyFile("node_modules/uplot/dist/uPlot.min.css", `${PAGE}/vendor.css`);
// Looks for barriers in the page; for the tests alone. Its licence is in its first lines.
await copyFile("node_modules/axe-core/axe.min.js", "../tests/axe.min.js");
