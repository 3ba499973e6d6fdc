"""Names of the classes that the demo model knows: shapes, colours, field labels, characters."""

SHAPES = ("circle", "square", "triangle", "star")
SHAPES_ZH = ("圆形", "正方形", "三角形", "五角星")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
COLOURS_ZH = ("红色", "绿色", "蓝色", "黄色", "紫色", "橙色")
COLOURS_RGB = ((214, 40, 40), (40, 160, 60), (40, 80, 210), (240, 205, 30), (135, 50, 160), (245, 130, 20))

RECEIPT_LABELS = ("TOTAL", "TAX", "CASH", "CHANGE", "ITEMS", "TABLE")
PLATE_LABELS = ("METER", "VOLTS", "AMPS", "WATTS", "YEAR", "CODE")
FIELD_LABELS = RECEIPT_LABELS + PLATE_LABELS

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_SHAPES = 5  # in one image
MAX_DIGITS = 6  # in one number
