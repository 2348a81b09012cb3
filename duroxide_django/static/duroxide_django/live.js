/* Refreshes what changed on a page every two seconds, and selects rows. Without it the pages are plain ones. */
'use strict';
{
    const INTERVAL_MS = 2000;
    const LONGEST_MS = 60000;
    const button = document.querySelector('.dx-pause');
    const state = document.querySelector('.dx-live-state');
    let paused = false;
    let wait = INTERVAL_MS;

    // Parts that somebody reads or uses right now are left alone until the next look.
    function isUsed(part) {
        const selection = document.getSelection();
        return (part.contains(document.activeElement) && document.activeElement !== document.body)
            || part.querySelector('input[type=checkbox]:checked')
            || (selection && !selection.isCollapsed && part.contains(selection.anchorNode));
    }

    function keepOpen(part, fresh) {
        for (const details of part.querySelectorAll('details[id][open]')) {
            const same = fresh.querySelector('#' + CSS.escape(details.id));
            if (same) {
                same.open = true;
            }
        }
    }

    function replace(fresh) {
        for (const part of document.querySelectorAll('[data-live][id]')) {
            const next = fresh.getElementById(part.id);
            if (!next) {
                continue;
            }
            keepOpen(part, next);
            showToggles(next);
            if (next.innerHTML !== part.innerHTML && !isUsed(part)) {
                part.innerHTML = next.innerHTML;
            }
        }
    }

    async function refresh() {
        if (!paused && !document.hidden) {
            try {
                const response = await fetch(window.location.href, {credentials: 'same-origin', redirect: 'error'});
                if (!response.ok) {
                    throw new Error(response.status);
                }
                replace(new DOMParser().parseFromString(await response.text(), 'text/html'));
                state.textContent = '';
                wait = INTERVAL_MS;
            } catch {
                state.textContent = button.dataset.stale;
                wait = Math.min(wait * 2, LONGEST_MS);
            }
        }
        window.setTimeout(refresh, wait);
    }

    // The box in a table's head selects all rows of the page.
    function showToggles(root) {
        for (const toggle of root.querySelectorAll('.dx-toggle')) {
            toggle.hidden = false;
        }
    }

    function tellSelected(form) {
        const told = form.querySelector('.dx-selected');
        if (told) {
            const count = form.querySelectorAll('.action-select:checked').length;
            told.textContent = count ? told.dataset.some.replace('%s', count) : told.dataset.none;
        }
    }

    for (const form of document.querySelectorAll('#changelist-form')) {
        showToggles(form);
        tellSelected(form);
        form.addEventListener('change', function(event) {
            if (event.target.matches('.dx-toggle')) {
                for (const box of form.querySelectorAll('.action-select')) {
                    box.checked = event.target.checked;
                }
            }
            tellSelected(form);
        });
    }

    if (button) {
        button.hidden = false;
        button.addEventListener('click', function() {
            paused = !paused;
            button.textContent = paused ? button.dataset.resume : button.dataset.pause;
            button.setAttribute('aria-pressed', String(paused));
        });
        window.setTimeout(refresh, wait);
    }
}
