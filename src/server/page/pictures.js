// Pictures on their way into a question: from files, by drop, by paste, from the camera.

// What the server reads. Other formats that the browser knows are sent as PNG.
const READ = new Set(["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/tiff"]);

class Pictures {
  constructor() {
    // { name, url, width, height }, the sizes 0 where the browser cannot show the picture
    this.attached = [];
    this.allowed = true;
    place("add-files").addEventListener("click", () => place("files").click());
    place("files").addEventListener("change", ({ target }) => {
      this.add([...target.files]);
      target.value = "";
    });
    this.take_drops();
    document.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (files.length > 0) event.preventDefault();
      this.add(files);
    });
    this.use_camera();
  }

  take_drops() {
    const has_files = (event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragover", (event) => {
      if (!has_files(event)) return;
      event.preventDefault();
      document.body.classList.add("dropping");
    });
    document.addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) document.body.classList.remove("dropping");
    });
    document.addEventListener("drop", (event) => {
      document.body.classList.remove("dropping");
      if (!has_files(event)) return;
      event.preventDefault();
      this.add([...event.dataTransfer.files]);
    });
  }

  // A model without a projector is asked about text only.
  allow(allowed) {
    this.allowed = allowed;
    place("add-files").disabled = place("open-camera").disabled = !allowed;
    place("add-files").title = allowed ? "" : "This model sees no pictures";
  }

  async add(files) {
    say(place("ask-says"), "");
    if (files.length > 0 && !this.allowed) {
      say(place("ask-says"), "This model sees no pictures.");
      return;
    }
    for (const file of files) {
      try {
        this.put(await read_picture(file));
      } catch {
        say(place("ask-says"), `${file.name} cannot be read as a picture.`);
      }
    }
    if (files.length > 0) place("question").focus();
  }

  put(...pictures) {
    this.attached.push(...pictures);
    this.show();
  }

  // Those attached, for a question that is sent.
  take() {
    const taken = this.attached;
    this.attached = [];
    this.show();
    return taken;
  }

  show() {
    const list = place("attached");
    list.className = "thumbnails";
    list.hidden = this.attached.length === 0;
    list.replaceChildren(
      ...this.attached.map((picture) => {
        const remove = button("×", { "aria-label": `Leave out ${picture.name}` }, () => {
          this.attached = this.attached.filter((other) => other !== picture);
          this.show();
          place("question").focus();
        });
        return element("li", {}, element("img", { src: picture.url, alt: picture.name }), remove);
      }),
    );
  }

  use_camera() {
    const [dialog, video] = [place("camera"), place("video")];
    place("open-camera").hidden = !navigator.mediaDevices?.getUserMedia;
    place("open-camera").addEventListener("click", async () => {
      say(place("ask-says"), "");
      try {
        video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
        dialog.showModal();
      } catch {
        say(place("ask-says"), "The browser gives no camera to this page.");
      }
    });
    place("take").addEventListener("click", () => {
      const size = { width: video.videoWidth, height: video.videoHeight };
      if (size.width === 0) return;
      this.put({ name: "picture of the camera", url: drawn(video, size).toDataURL("image/jpeg", 0.95), ...size });
      dialog.close();
      place("question").focus();
    });
    place("close-camera").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => {
      video.srcObject?.getTracks().forEach((track) => track.stop());
      video.srcObject = null;
    });
  }
}

// A file as it is, or as PNG where only the browser can read it.
async function read_picture(file) {
  let url = await as_data_url(file);
  const shown = await decoded(url);
  if (!READ.has(file.type)) {
    if (!shown) throw new Error("neither the server nor the browser reads it");
    url = drawn(shown, { width: shown.naturalWidth, height: shown.naturalHeight }).toDataURL("image/png");
  }
  return { name: file.name || "picture", url, width: shown?.naturalWidth ?? 0, height: shown?.naturalHeight ?? 0 };
}

function as_data_url(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

// The picture, or null where the browser cannot show it.
async function decoded(url) {
  const image = new Image();
  image.src = url;
  return image.decode().then(
    () => image,
    () => null,
  );
}

function drawn(source, { width, height }) {
  const canvas = element("canvas", { width, height });
  canvas.getContext("2d").drawImage(source, 0, 0, width, height);
  return canvas;
}
