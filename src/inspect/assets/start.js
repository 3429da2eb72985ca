// Draws everything, from top to bottom.

document.documentElement.style.setProperty("--light", derived.picture_light);
draw_head();
draw_strip();
draw_large();
draw_multiples();
draw_sinks();
draw_kept();
draw_lens();
draw_prompt();
paint_small();
show_layer(shown.il);
listen_to_keys();
