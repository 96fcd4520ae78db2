"""The subject: images, masks, labels, splits, models, metrics, figures and reports. Nothing here imports Ray."""
