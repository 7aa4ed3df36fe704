"""A second, slow writing of cutouts and of the loop, one cutout and one pixel's formula at a time, to compare with."""

import math

import torch


def bilinear(image, x, y):
    """Sample (3, H, W) at positions in [-1, 1] between outer edges; outside, the edge's pixel."""
    _, height, width = image.shape
    px = ((x + 1) * width / 2 - 0.5).clamp(0, width - 1)
    py = ((y + 1) * height / 2 - 0.5).clamp(0, height - 1)
    x0, y0 = px.floor().long(), py.floor().long()
    x1, y1 = (x0 + 1).clamp(max=width - 1), (y0 + 1).clamp(max=height - 1)
    fx, fy = px - x0, py - y0
    top = image[:, y0, x0] * (1 - fx) + image[:, y0, x1] * fx
    bottom = image[:, y1, x0] * (1 - fx) + image[:, y1, x1] * fx
    return top * (1 - fy) + bottom * fy


def halve(image):
    return (image[:, ::2, ::2] + image[:, 1::2, ::2] + image[:, ::2, 1::2] + image[:, 1::2, 1::2]) / 4


def one_cutout(image, p, b, i, size):
    """Cutout i of picture b, whose sides must be divisible by 2 as often as it shrinks."""
    _, height, width = image.shape
    m = p.matrix[b, i].to(image.dtype)
    c = (torch.arange(size, dtype=image.dtype) + 0.5) / size * 2 - 1
    u, v = c[None, :].expand(size, size), c[:, None].expand(size, size)
    w = m[2, 0] * u + m[2, 1] * v + m[2, 2]
    x, y = (m[0, 0] * u + m[0, 1] * v + m[0, 2]) / w, (m[1, 0] * u + m[1, 1] * v + m[1, 2]) / w

    def place(u, v):  # in pixels
        w = m[2, 0] * u + m[2, 1] * v + m[2, 2]
        return torch.stack([(m[0, 0] * u + m[0, 1] * v + m[0, 2]) / w * width / 2,
                            (m[1, 0] * u + m[1, 1] * v + m[1, 2]) / w * height / 2])

    h = 1e-4  # the shrinkage at the centre by central differences
    zero = torch.zeros((), dtype=torch.float64)
    along = [(place(zero + h, zero) - place(zero - h, zero)) / (2 * h) * 2 / size,
             (place(zero, zero + h) - place(zero, zero - h)) / (2 * h) * 2 / size]
    lengths = [float(a.norm()) for a in along]
    level = min(max(0.0, math.log2(max(lengths))), math.log2(min(height, width)))
    low, share = int(level), level - int(level)
    levels = [image]
    while len(levels) < low + 2:
        levels.append(halve(levels[-1]) if share or len(levels) <= low else levels[-1])
    out = bilinear(levels[low], x, y) * (1 - share) + bilinear(levels[low + 1], x, y) * share
    reach = math.sqrt(lengths[0] * lengths[1])
    cover = ((((1 - x.abs()) * width / 2 / reach + 0.5 + 1e-4).clamp(0, 1))
             * (((1 - y.abs()) * height / 2 / reach + 0.5 + 1e-4).clamp(0, 1)))
    return colours(image, out, cover, p, b, i, size)


def colours(image, out, cover, p, b, i, size):
    """What follows the warp."""
    ring = torch.cat([image[:, :1].flatten(1), image[:, -1:].flatten(1), image[:, :, :1].flatten(1),
                      image[:, :, -1:].flatten(1)], dim=1).detach()
    old = ring.sort(dim=1).values[:, (ring.shape[1] - 1) // 2]
    plain = ((ring - old[:, None]).abs().max(dim=0).values < 0.1).double().mean() > 0.5
    fill = {"background": old, "white": torch.ones_like(old)}.get(p.fill, p.background[b, i].to(old))
    if plain and p.recolour[b, i] > 0:
        fill = p.background[b, i].to(old)
        near = 1 - (out.detach() - old[:, None, None]).abs().max(dim=0).values / 0.15
        out = out + near.clamp(min=0) * (fill - old)[:, None, None]
    if p.fill != "edge":
        out = cover * out + (1 - cover) * fill[:, None, None]
    grey = (0.299 * out[0] + 0.587 * out[1] + 0.114 * out[2]).mean()
    out = torch.einsum("ij,jhw->ihw", p.colour[b, i].to(out), out) + p.gain[b, i].to(out) * grey
    x0, y0, x1, y1 = p.erase[b, i].tolist()
    centre = (torch.arange(size) + 0.5) / size
    rows, columns = (centre >= y0) & (centre < y1), (centre >= x0) & (centre < x1)
    box = (rows[:, None] & columns[None])[None]
    out = out * ~box + fill[:, None, None] * box
    noise = torch.randn(p.matrix.shape[1], 3, size, size, generator=torch.Generator().manual_seed(p.noise_seed[b]))
    return out + p.noise[b, i].to(out) * noise[i].to(out)


def descent_clamp(x):
    """Clamp to [0, 1] whose gradient is dropped where it would push further out (by a hook, not by a Function)."""
    y = x + (x.clamp(0, 1) - x).detach()
    outside = (x - x.clamp(0, 1)).detach()
    if y.requires_grad:
        y.register_hook(lambda g: g * (g * outside >= 0))
    return y


def trajectory(vqgan, clip, target, z, parameters, steps, lr=0.1):
    """VQGAN+CLIP for one picture and one prompt of weight 1, with Adam written out; return the losses and z."""
    table = vqgan.codebook.detach()
    low, high = table.min(0).values[None, :, None, None], table.max(0).values[None, :, None, None]
    z, m, v, losses = z.clone(), torch.zeros_like(z), torch.zeros_like(z), []
    for t in range(1, steps + 1):
        z.requires_grad_()
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        codes = torch.cdist(flat.detach(), table).argmin(1)
        onehot = torch.nn.functional.one_hot(codes, len(table)).to(table)
        value = (onehot @ table).view(z.shape[0], *z.shape[2:], -1).permute(0, 3, 1, 2)
        image = descent_clamp((vqgan.decode(z + (value - z).detach()) + 1) / 2)[0]
        p, total = parameters[t - 1], 0.0
        count = p.matrix.shape[1]
        for i in range(count):
            seen = descent_clamp(one_cutout(image, p, 0, i, clip.image_size))
            feature = clip.encode_image(seen[None])[0]
            total = total + 2 * torch.arcsin((feature - target).norm() / 2) ** 2 / count
        (grad,) = torch.autograd.grad(total, z)
        with torch.no_grad():
            m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
            z = z - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            z = torch.minimum(torch.maximum(z, low), high)
        losses.append(total.detach())
    return torch.stack(losses), z
