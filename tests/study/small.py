"""A network as a user brings one, `small:network`: what is compiled of it takes little time."""

import keras
from keras import layers


def network():
    x = inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, padding="same")(x)
    for _ in range(2):
        h = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.Add()([x, layers.Conv2D(4, 3, padding="same")(h)])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    model = keras.Model(inputs, layers.Dense(10)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Nadam(2e-3), loss)
    return model
