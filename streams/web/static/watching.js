// A view that is looked at again and again while anybody sees it.

export class WatchingView {
  /** `load` fetches what `draw` of the view then shows. */
  constructor({ title, everyMs, load, notice }) {
    Object.assign(this, { title, everyMs, load, notice });
    this.visible = false;
  }

  show() {
    document.title = `${this.title} · pixtide`;
    this.visible = true;
    this.look();
  }

  hide() {
    this.visible = false;
    clearTimeout(this.next);
  }

  async look() {
    clearTimeout(this.next);
    if (!this.visible) return;
    try {
      if (!document.hidden) this.draw(await this.load());
      this.notice(null);
    } catch (error) {
      this.notice(`${error.message} Trying again by itself.`);
    }
    if (this.visible) this.next = setTimeout(() => this.look(), this.everyMs);
  }
}
