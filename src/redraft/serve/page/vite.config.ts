import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";

export default defineConfig({
  base: "./",
  plugins: [svelte()],
  build: {
    // The first browsers with light-dark(), all from the first half of 2024.
    target: ["chrome123", "firefox120", "safari17.5"],
    // One script and one style sheet; a polyfill or an inlined file would need a laxer content security policy.
    modulePreload: false,
    assetsInlineLimit: 0,
    rolldownOptions: {
      output: {
        entryFileNames: "assets/page.js",
        assetFileNames: "assets/page[extname]",
        codeSplitting: false,
      },
    },
  },
  server: {
    // `npm run dev` shows the page with a server that already runs.
    proxy: Object.fromEntries(
      ["/v1", "/health"].map((path) => [path, process.env.REDRAFT_URL ?? "http://127.0.0.1:8000"]),
    ),
  },
  test: { include: ["src/**/*.test.ts"] },
});
