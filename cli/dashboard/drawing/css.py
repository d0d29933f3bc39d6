"""Themes and layout of the screen."""

from __future__ import annotations

from textual.theme import Theme

from ensemw2s.cli.dashboard.drawing.palette import colours


def _theme(name: str, dark: bool) -> Theme:
    c = colours(dark)
    return Theme(
        name=name,
        primary=c["blue"],
        secondary=c["purple"],
        accent=c["orange"],
        warning=c["warn"],
        error=c["bad"],
        success=c["good"],
        foreground=c["text"],
        background=c["ground"],
        surface=c["ground"],
        panel=c["edge"],
        dark=dark,
        variables={
            "border": c["blue"],
            "border-blurred": c["axis"],
            "scrollbar": c["axis"],
            "scrollbar-hover": c["dim"],
            "scrollbar-active": c["blue"],
            "scrollbar-background": c["ground"],
            "scrollbar-background-hover": c["ground"],
            "scrollbar-background-active": c["ground"],
        },
    )


DARK, LIGHT = _theme("ew2s-dark", True), _theme("ew2s-light", False)

CSS = """
Screen { background: $background; color: $foreground; layers: base top; }
#head { height: 1; background: $panel; }
#nav { height: 1; background: $background; }
#views { height: 1fr; }
#keys { height: 1; background: $panel; }
#small { display: none; height: 1fr; padding: 0 1; }
Screen.-small #views, Screen.-small #nav, Screen.-small #keys { display: none; }
Screen.-small #small { display: block; }

/* what only holds panels is not painted at all */
#views, .view, .box { visibility: hidden; }
BoxPanel, .search { visibility: visible; }
BoxPanel { width: 1fr; height: 1fr; background: $background; }
.box { width: 1fr; height: 1fr; layout: vertical; }
.-hidden { display: none !important; }
.view { layout: horizontal; }
.view.-solo { layout: vertical !important; }
.view.-solo .-solo-panel {
    width: 1fr !important; height: 1fr !important;
    column-span: 1; row-span: 1; max-height: 100%; }
.view.-solo .box { width: 1fr !important; height: 1fr !important; layout: vertical !important; }
.search { height: 1; border: none; background: $panel; }
.search.-closed { display: none; }

#overview-left { width: 5fr; }
#overview-right { width: 6fr; }
#comparison { height: auto; min-height: 6; max-height: 80%; }
#newest-loss { height: 1fr; }
Screen.-compact #comparison { height: 1fr; max-height: 100%; }
Screen.-compact #newest-loss { display: none; }
Screen.-compact .view.-solo #newest-loss.-solo-panel { display: block; }
#stages { height: auto; min-height: 6; max-height: 70%; }
#messages { height: 1fr; }
Screen.-narrow #overview { layout: vertical; }
Screen.-narrow #overview-left { width: 1fr; height: 9fr; }
Screen.-narrow #overview-right { width: 1fr; height: 12fr; }
/* as much room for the stages as the table leaves */
Screen.-compact.-narrow #overview-left { height: 1fr; }
Screen.-compact.-narrow #overview-right { height: auto; max-height: 58%; min-height: 5; }
Screen.-compact.-narrow #comparison { height: auto; max-height: 100%; }
Screen.-compact #stages { height: 1fr; min-height: 3; max-height: 100%; }
Screen.-compact #messages { height: 3; }

#boosting { layout: grid; grid-size: 3 2; }
Screen.-narrow #boosting { grid-size: 2 3; }
#student { layout: grid; grid-size: 2 2; }
#student-loss { column-span: 2; }
#system { layout: grid; grid-size: 2 2; }
#gauges { row-span: 2; }
#system { grid-columns: 2fr 3fr; }
Screen.-narrow #system { layout: vertical; }
Screen.-narrow #gauges { height: 2fr; }

#token-left { width: 5fr; }
#token-right { width: 7fr; }
#token-detail { height: 3fr; }
#token-weight { height: 2fr; }
Screen.-compact #token-weight { display: none; }
Screen.-compact .view.-solo #token-weight.-solo-panel { display: block; }
Screen.-narrow #tokens { layout: vertical; }
Screen.-narrow #token-left, Screen.-narrow #token-right { width: 1fr; height: 1fr; }

#labelling, #runs { layout: vertical; }
#teachers { height: auto; max-height: 8; min-height: 4; }
#label-charts { layout: horizontal; height: 4fr; }
#label-list { height: 5fr; }
#run-top { height: 4fr; }
#compared { height: 3fr; }
#run-charts { layout: horizontal; height: 4fr; }
Screen.-compact #run-charts { display: none; }
Screen.-compact .view.-solo #run-charts { display: block; }

Dialog { layer: top; display: none; }
Dialog.-open { display: block; }
"""
