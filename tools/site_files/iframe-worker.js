// The search of the site runs in a worker, and browsers refuse workers to pages that are opened from files. There, a hidden
// frame runs the worker's script instead. mkdocs-material would load such a script from another server, so the search would
// need a network. It looks for the name `IFrameWorker` to find its own files.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    #inside;
    #ready;

    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.#inside = frame.contentWindow;
      this.#inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.#inside.importScripts = async (...addresses) => {
        for (const each of addresses) await this.#load(each);
      };
      this.#ready = this.#load(address);
      this.#ready.catch((error) => this.dispatchEvent(new ErrorEvent("error", { error })));
    }

    postMessage(data) {
      // Messages wait, in their order, until the script listens.
      this.#ready.then(() => this.#inside.dispatchEvent(new MessageEvent("message", { data })), () => {});
    }

    terminate() {
      this.#inside.frameElement?.remove();
    }

    #load(address) {
      const script = this.#inside.document.createElement("script");
      script.src = new URL(address, location);
      return new Promise((loaded, failed) => {
        script.onload = loaded;
        script.onerror = () => failed(new Error(`cannot load ${script.src}`));
        this.#inside.document.head.append(script);
      });
    }
  };
  window.Worker = window.IFrameWorker;
}
